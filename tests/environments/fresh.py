"""One fresh virtual environment: made, filled, tried, removed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TINY = """\
name: tiny
seed: 3
dataset: {source: digits, limit: {train: 200, test: 100}}
scenario: {kind: samples, per_class: 5}
model: {name: small_vgg, width: 0.0625}
training: {lr: 0.05, final_lr: 0.005, batch_size: 32, epochs: 2, augment: null}
shadows: {originals: 5, retrained: 5, split: [2, 1, 2]}
methods: [{name: pgu, gamma: 0.9, lr: 0.01, epochs: 2, early_stop: null}]
"""

# What would lead a command to this checkout's packages, or to a server of somebody's.
LEFT_OUT = ("PYTHONPATH", "VIRTUAL_ENV", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")


@dataclass(frozen=True)
class Found:
    """What came of one environment.

    `told` is the last line that the command printed, `megabytes` the size of the environment.
    """

    python: str
    extra: str
    works: bool
    told: str
    install_seconds: float
    run_seconds: float
    megabytes: int

    def line(self) -> str:
        """Returns a row of a Markdown table."""
        end = "works" if self.works else "fails"
        return (
            f"| {self.python} | {self.extra} | {end}: {self.told} | {self.install_seconds:.0f} s | "
            f"{self.run_seconds:.0f} s | {self.megabytes:,} MB |"
        )


def extras() -> list[str]:
    """Returns the names of the extras that the project declares."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["optional-dependencies"])


def copy_of_tree(place: Path) -> Path:
    """Copies what git tracks into `place`, so that building leaves nothing in the checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    return place


def try_one(python: str, extra: str, source: Path, folder: Path, recipe: str = "tiny") -> Found:
    """Makes an environment, installs the project, runs `recipe` in an empty folder, removes both."""
    place, here = folder / "environment", folder / "work"
    environment = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    environment |= {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    what = str(source) if extra == "none" else f"{source}[{extra}]"
    here.mkdir()
    (here / "tiny.yaml").write_text(TINY)
    started = time.monotonic()
    try:
        steps = [[python, "-m", "venv", str(place)], [f"{place}/bin/python", "-m", "pip", "install", "--quiet", what]]
        for step in steps:
            done = subprocess.run(step, env=environment, cwd=here, capture_output=True, text=True)
            if done.returncode:
                return Found(python, extra, False, _last(done.stderr), time.monotonic() - started, 0, 0)
        installed, size = time.monotonic() - started, _megabytes(place)
        name = "tiny.yaml" if recipe == "tiny" else recipe
        command = [f"{place}/bin/orchestrator", "run", name, "--quiet", "--output", "out"]
        done = subprocess.run(command, env=environment, cwd=here, capture_output=True, text=True)
        told, works = _judged(done, here / "out" / "results.json")
        version = subprocess.run([f"{place}/bin/python", "-V"], capture_output=True, text=True).stdout.split()[-1]
        return Found(version, extra, works, told, installed, time.monotonic() - started - installed, size)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(here, ignore_errors=True)


def _judged(done: subprocess.CompletedProcess[str], results: Path) -> tuple[str, bool]:
    if done.returncode or "Traceback" in done.stderr:
        return f"exit {done.returncode}, {_last(done.stderr)}", False
    rows = json.loads(results.read_text())["rows"]
    failed = [row["method"] for row in rows if row["status"] != "done" or row["metrics"]["auc"] is None]
    return f"rows without an AUC: {failed}" if failed else f"{len(rows)} rows", not failed


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else "nothing was printed"


def _megabytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) // 10**6
