"""A method, an attack, a source and a model from a package outside the tree: one file, one entry point each."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.commands.cli import main
from orchestrator.plan import code
from orchestrator.plan.code import code_of, code_of_factory
from unlearn import METHODS

PLUGIN = '''
"""A toy of each kind."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from attack.attacks.base import Attack, Fitted
from attack.outputs.measured import Measured
from unlearn.data.images import ImageSet, make_dataset
from unlearn.data.sources import Source
from unlearn.methods.base import Method, UnlearnResult


@dataclass(frozen=True)
class Blur(Method):
    """Adds noise to the weights."""

    name: ClassVar[str] = "blur"
    strength: float = 0.1
    seed: int = 0

    def unlearn(self, model, *, forget, **given):
        blurred = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for parameter in blurred.parameters():
                parameter += self.strength * torch.randn(parameter.shape, generator=generator)
        return UnlearnResult(blurred, [{"epoch": 0}], None, ["blurred by %g" % self.strength])


@dataclass(frozen=True)
class Known(Fitted):
    attack: Attack

    def score(self, outputs):
        measured = Measured.of(outputs)
        return -self.attack.scale * np.logaddexp(0.0, -measured.in_rows(measured.margins("loud")))


@dataclass(frozen=True)
class Loud(Attack):
    """Membership by the loss."""

    name = "loud"
    scale: float = 2.0

    def fit(self, outputs):
        return Known(self)


@dataclass(frozen=True)
class Stripes(Source):
    """Images whose class is the row that is bright."""

    noise: float = 60.0

    def load(self, *, limit=None, on_progress=None):
        generator = np.random.default_rng(0)
        parts = []
        for count in (60, 30):
            labels = np.arange(count) % 3
            images = generator.uniform(0, self.noise, (count, 8, 8, 1))
            images[np.arange(count), labels + 2] += 150
            parts.append(ImageSet(images.astype(np.uint8), labels.astype(np.int64)))
        return make_dataset("stripes", parts[0], parts[1], ("a", "b", "c"))


def tiny_net(num_classes, in_channels=1, image_size=8, hidden=8):
    """A perceptron."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(in_channels * image_size**2, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
    )
'''

ENTRY_POINTS = """
[unlearn.methods]
blur = toy_plugin:Blur
[unlearn.sources]
stripes = toy_plugin:Stripes
[unlearn.models]
tiny_net = toy_plugin:tiny_net
[attack.attacks]
loud = toy_plugin:Loud
"""

RECIPE: dict[str, Any] = {
    "name": "toys",
    "dataset": {"source": "stripes", "noise": 80},
    "scenario": {"kind": "samples", "per_class": 2},
    "model": {"name": "tiny_net", "hidden": 6},
    "training": {"lr": 0.1, "final_lr": None, "batch_size": 20, "epochs": 2, "augment": None},
    "shadows": {"originals": 3, "retrained": 3, "split": [1, 1, 1]},
    "methods": [{"name": "blur", "strength": {"grid": [0.1, 1]}}],
    "attacks": [{"name": "loud", "scale": 3}],
    "tracking": {"uri": None},
}


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """The folder that holds the package and what an installer writes beside it."""
    site = tmp_path / "site"
    (site / "toy_plugin-1.0.dist-info").mkdir(parents=True)
    (site / "toy_plugin.py").write_text(PLUGIN)
    (site / "toy_plugin-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: toy-plugin\nVersion: 1.0\n"
    )
    (site / "toy_plugin-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump(RECIPE))
    return site


class Runs:
    """Runs the recipe in this process as a new process would: the package is imported again."""

    def __init__(self, capsys: pytest.CaptureFixture[str]):
        self._capsys = capsys

    def __call__(self) -> dict[str, Any]:
        sys.modules.pop("toy_plugin", None)
        importlib.invalidate_caches()
        code._source_digest.cache_clear()
        assert main(["run", "toys.yaml", "--address", "inline", "--output", "out", "--json"]) == 0
        document: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return document


@pytest.fixture
def run(plugin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Runs]:
    """See `Runs`. `tests/docs/test_add_a_method.py` has a package in a process of its own."""
    monkeypatch.chdir(plugin.parent)
    monkeypatch.syspath_prepend(str(plugin))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Runs(capsys)
    sys.modules.pop("toy_plugin", None)
    code._source_digest.cache_clear()


@pytest.mark.medium
@pytest.mark.medium
def test_one_file_and_one_line_each(plugin: Path, run: Runs) -> None:
    document = run()
    rows = {row["method"] + str(row["params"].get("strength", "")): row for row in document["rows"]}
    assert set(rows) == {"no_unlearn", "retrain", "blur0.1", "blur1.0"}
    assert all(row["status"] == "done" for row in rows.values())
    assert "blurred by 1" in rows["blur1.0"]["notes"]
    assert rows["blur1.0"]["metrics"]["loud/auc"] is not None
    assert document["environment"]["dataset"]["name"] == "stripes"
    first = document["environment"]["work"]["units_executed"]
    assert run()["environment"]["work"] == {"units_executed": 0, "units_reused": first}, "nothing has changed"
    # The same package with another body: what it took part in is made again, and nothing is taken from before.
    source = plugin / "toy_plugin.py"
    source.write_text(source.read_text().replace('"blurred by %g" %', '"smeared by %g" %'))
    again = run()
    assert again["environment"]["work"]["units_executed"] == first
    assert "smeared by 1" in next(row["notes"] for row in again["rows"] if row["params"].get("strength") == 1.0)


def test_built_in_code_has_no_fingerprint() -> None:
    changed = "amun boundary_shrink fanchuan fisher jit kookmin negmerge ortho_grad salun sfron ssd unsir wood_fisher"
    known = {name: code_of(method) for name, method in METHODS.items()}
    assert {name for name, code in known.items() if code} == set(changed.split()), "their results have changed"
    assert set(known.values()) == {"", "version 2"}
    # A class of a user's own that builds on one of ours has its own code to go by.
    own = type("Mine", (METHODS["jit"],), {"__module__": __name__})
    assert code_of(own).endswith("; version 2"), "and that of the class beneath"
    assert ";" not in code_of(type("Mine", (METHODS["pgu"],), {"__module__": __name__}))
    assert code_of_factory("torchvision.models:resnet18") == ""


def test_a_fingerprint_follows_the_source_unless_a_version_is_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "finger_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(tmp_path)

    def now() -> str:
        code._source_digest.cache_clear()
        return code_of_factory("finger_plugin.nets:build")

    before = now()
    assert len(before) == 64
    assert now() == before
    (package / "helper.py").write_text("X = 2\n")
    assert now() != before, "another file of the package may be what the factory calls"
    assert "finger_plugin" not in sys.modules, "nothing of it is executed for that"
    declared = type("Declared", (), {"__module__": "finger_plugin", "version": 3})
    assert code_of(declared) == "version 3"
    with pytest.raises(ValueError, match="no_such_plugin: its source cannot be read; give the class a `version`"):
        code_of(type("Lost", (), {"__module__": "no_such_plugin"}))
