"""What produced a result: package versions, commit and CPUs."""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

PACKAGES = (
    "torch",
    "torchvision",
    "ray",
    "mlflow",
    "xgboost",
    "xgboost-cpu",
    "pyarrow",
    "numpy",
    "unlearning-orchestrator",
)


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Returns the versions of the libraries that decide the numbers."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class GitState(TypedDict, total=False):
    """The commit of the code, and whether it was changed since."""

    commit: str
    dirty: bool


@lru_cache(maxsize=1)
def git_state() -> GitState:
    """Returns the commit of the code that runs and whether it was changed since; empty outside a
    checkout.
    """
    here = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "dirty": bool(status.strip())}


def _cpus() -> int:
    return os.cpu_count() or 1
