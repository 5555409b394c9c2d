"""Whose an MLflow run is, whether its driver lives, and the code that made it: tags of a run."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from ..base.processes import process_start
from ..base.provenance import git_state, versions

if TYPE_CHECKING:
    from mlflow.entities import Run

TAG = "orchestrator"
STALE_SECONDS = 900.0  # a driver elsewhere whose heartbeat is older is taken for dead


def owner_tags() -> dict[str, str]:
    """Tags that say which process a run belongs to, and that it lives."""
    return {
        f"{TAG}.host": socket.gethostname(),
        f"{TAG}.pid": str(os.getpid()),
        f"{TAG}.started": process_start(os.getpid()),
        f"{TAG}.heartbeat": str(int(time.time())),
    }


def is_silent(run: Run) -> bool:
    """Whether a run's driver has shown no sign of life for long."""
    beat = run.data.tags.get(f"{TAG}.heartbeat", "")
    last = float(beat) if beat.isdigit() else run.info.start_time / 1000
    return time.time() - last > STALE_SECONDS


def age(run: Run) -> tuple[int, str]:
    """By which runs are ordered: the oldest first."""
    return run.info.start_time or 0, run.info.run_id


def code_tags() -> dict[str, str]:
    """Tags that say with which code and packages a run was made."""
    git = git_state()
    tags = {f"version.{name}": text for name, text in versions().items()}
    if git:
        tags["mlflow.source.git.commit"] = git["commit"]
        tags["git.dirty"] = str(git["dirty"]).lower()
    return tags
