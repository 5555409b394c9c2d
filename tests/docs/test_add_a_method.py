"""The page on adding a method is true: its file is short, it conforms, its tests pass, and a recipe runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from .places import ROOT

PAGE = (ROOT / "docs" / "how-to" / "add-a-method.md").read_text()
MOST_LINES = 40

FAULTY = """
from dataclasses import dataclass

import torch
from unlearn.testing import check_method
from ascent import Ascent

@dataclass(frozen=True, kw_only=True)
class Faulty(Ascent):
    def run(self, task):
        super().run(task)
        with torch.no_grad():
            next(task.original.parameters()).add_(1.0)

def test_a_faulty_one_conforms():
    check_method(Faulty)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's file, and beside it what an installer makes of the page's entry point."""
    folder = tmp_path_factory.mktemp("method")
    (folder / "ascent.py").write_text(blocks("python")[0])
    ((group, names),) = tomllib.loads(blocks("toml")[0])["project"]["entry-points"].items()
    info = folder / "ascent-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ascent\nVersion: 1.0\n")
    lines = [f"[{group}]", *(f"{name} = {target}" for name, target in names.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def ran(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(folder), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=400
    )


def test_the_file_is_short() -> None:
    assert len(blocks("python")[0].splitlines()) < MOST_LINES


@pytest.mark.medium
def test_the_checks_of_the_page_pass_and_find_a_fault(package: Path) -> None:
    """`orchestrator check-method` is tried in the tests of the command line."""
    (package / "test_ascent.py").write_text("\n".join(["from ascent import Ascent", *blocks("python")[1:]]))
    (package / "test_faulty.py").write_text(FAULTY)
    done = ran(package, "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(package))
    assert "1 failed, 2 passed" in done.stdout, done.stdout
    assert "Faulty does not conform:" in done.stdout
    assert "G1 (the model that it is given keeps its bits): it changed" in done.stdout


@pytest.mark.slow
def test_a_recipe_runs_it(package: Path) -> None:
    recipe = {
        "name": "ascent",
        "dataset": {"source": "digits", "limit": {"train": 60, "test": 40}},
        "scenario": {"kind": "samples", "per_class": 2},
        "model": {"name": "small_vgg", "width": 0.125},
        "training": {"lr": 0.05, "final_lr": 0.005, "batch_size": 30, "epochs": 2, "augment": None},
        "shadows": {"originals": 3, "retrained": 3, "split": [1, 1, 1]},
        "attacks": [{"name": "loss_threshold"}],
        "tracking": {"uri": None},
        **yaml.safe_load(blocks("yaml")[-1]),
    }
    (package / "ascent.yaml").write_text(yaml.safe_dump(recipe))
    done = ran(package, "tests.few_figures", "run", "ascent.yaml", "--address", "inline", "--output", "out", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [row for row in json.loads(done.stdout)["rows"] if row["method"] == "ascent"]
    assert [row["params"]["lr"] for row in rows] == [0.001, 0.01]
    assert {(row["status"], row["title"], row["access"]) for row in rows} == {("done", "Ascent", "forget")}
