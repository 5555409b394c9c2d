"""Code of the user's own by `package.module:Class`, only with --allow-code; and the files that `new` writes work."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.commands.cli import main
from orchestrator.commands.shipping import ship_code
from orchestrator.plan import code
from orchestrator.recipe.own_code import permit_code
from orchestrator.recipe.recipe import load_recipe

ROOT = Path(__file__).parents[2]
NAMES = {"method": "mine_method", "attack": "mine_attack", "source": "mine_source", "model": "mine_model"}
RECIPE: dict[str, Any] = {
    "name": "mine",
    "dataset": {"source": "mine_source:MineSource", "size": 8, "limit": {"train": 60, "test": 30}},
    "scenario": {"kind": "samples", "per_class": 3},
    "model": {"name": "mine_model:build_mine_model", "channels": 8},
    "training": {"lr": 0.1, "final_lr": None, "batch_size": 20, "epochs": 2, "augment": None},
    "shadows": {"originals": 3, "retrained": 3, "split": [1, 1, 1]},
    "methods": [{"name": "mine_method:MineMethod", "epochs": 1}],
    "attacks": [{"name": "mine_attack:MineAttack", "scale": 2.0}],
    "tracking": {"uri": None},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `new` writes, one of each kind, beside a recipe that names them."""
    found = tmp_path_factory.mktemp("own")
    for kind, name in NAMES.items():
        assert main(["new", kind, name, "--folder", str(found)]) == 0
    (found / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return found


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder as the current one; its modules and the permission are forgotten afterwards."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    yield folder
    permit_code(False)
    for name in [*NAMES.values(), "broken"]:
        sys.modules.pop(name, None)
    code._source_digest.cache_clear()


@pytest.mark.medium
def test_the_written_tests_pass(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert "7 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.medium
def test_one_recipe_runs_all_four(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "recipe.yaml", "--address", "inline", "--output", "out", "--quiet", "--json"]
    assert main(arguments) == 2
    refused = capsys.readouterr().err
    for field in ("dataset.source", "methods.0.name", "attacks.0.name"):
        assert f"{field}: '" in refused
    assert refused.count("would import and run code of your own; allowed: permit it with --allow-code") == 3
    assert not (here / "out").exists()

    assert main([*arguments, "--allow-code"]) == 0
    document = json.loads(capsys.readouterr().out)
    row = next(row for row in document["rows"] if row["method"] == "mine_method:MineMethod")
    assert row["status"] == "done"
    assert row["metrics"]["mine_attack:MineAttack/auc"] is not None
    first = document["environment"]["work"]["units_executed"]
    assert list((here / "out" / "outputs").glob("unlearned-mine_method-MineMethod-epochs=1-*.parquet"))

    assert main([*arguments, "--allow-code", "--fresh", "mine_method:MineMethod"]) == 0
    work = json.loads(capsys.readouterr().out)["environment"]["work"]
    assert 0 < work["units_executed"] < first, "the method's work is done again, models are not trained again"
    assert work["units_executed"] + work["units_reused"] == first
    assert main([*arguments, "--allow-code", "--fresh", "pgu"]) == 2
    assert "--fresh: 'pgu': not a method of the recipe" in capsys.readouterr().err
    assert main(["plan", "recipe.yaml", "--allow-code", "--output", "out"]) == 0
    assert main(["report", "out", "--allow-code"]) == 0
    assert main(["report", "out"]) == 2


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_package\n", "cannot be imported (ModuleNotFoundError: No module named 'no_such_package')"),
        ("class Mine(:\n", "cannot be imported (SyntaxError: invalid syntax"),
        ("raise ZeroDivisionError('boom')\n", "cannot be imported (ZeroDivisionError: boom)"),
        ("x = 1\n", "cannot be imported (AttributeError: module 'broken' has no attribute 'Mine')"),
        ("class Mine: pass\n", "is no Method; derive the class from unlearn.methods.base.Method"),
    ],
)
def test_a_mistake_in_a_plugin_is_one_line(
    here: Path, source: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "broken.py").write_text(source)
    importlib.invalidate_caches()
    (here / "broken.yaml").write_text(yaml.safe_dump({**RECIPE, "methods": [{"name": "broken:Mine"}]}))
    assert main(["plan", "broken.yaml", "--allow-code"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert words in told[0]


def test_a_job_takes_the_named_code_along_and_nothing_else(here: Path, tmp_path: Path) -> None:
    permit_code(True)
    package = here / "own_package"
    package.mkdir()
    for name in ("__init__.py", "nets.py"):
        (package / name).write_text("def build(**shape): ...\n")
    (package / "__pycache__").mkdir()
    importlib.invalidate_caches()
    recipe = load_recipe(here / "recipe.yaml", ["model.name=own_package.nets:build"])
    ship_code(recipe, tmp_path)
    sent = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert sent == {
        "mine_method.py",
        "mine_attack.py",
        "mine_source.py",
        "own_package/__init__.py",
        "own_package/nets.py",
    }
    installed = load_recipe(here / "recipe.yaml", ["model.name=torchvision.models:resnet18"])
    (tmp_path / "other").mkdir()
    ship_code(installed, tmp_path / "other")
    assert not (tmp_path / "other" / "torchvision").exists()


def test_new_replaces_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "method", "mine_method", "--folder", str(folder)]) == 2
    assert "exists; give another name" in capsys.readouterr().err
    assert main(["new", "method", "Not-A-Name!", "--folder", str(folder)]) == 2
    assert "give small letters" in capsys.readouterr().err


def test_a_shell_completes_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "verify" in script
    assert "--plan-only" in script
    shell = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert shell.returncode == 0, shell.stderr
