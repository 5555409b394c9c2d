"""A few drawn inputs of every kind end in order, and the harness sees a planted fault of each kind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from .harness import KINDS, problem_of, warm_up


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    warm_up()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_given_a_command_ends_in_order(
    kind: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert problem_of(kind, seed, tmp_path, seconds=60) == ""  # other tests may share the cores


def crash(args: Any) -> int:
    raise AttributeError("planted")


def hang(args: Any) -> int:
    time.sleep(5)
    return 0


def overwrite(args: Any) -> int:
    Path("r.yaml").write_text("mine no more")
    return 0


PLANTED = {
    "traceback": (crash, "an error that nobody foresaw"),
    "hang": (hang, "it took more than"),
    "overwritten": (overwrite, "it changed r.yaml"),
    "deleted": (lambda args: Path("r.yaml").unlink() or 0, "it changed r.yaml"),
    "code": (lambda args: 7, "it ended with 7"),
    "silence": (lambda args: 2, "without a word"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_seen(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted, words = PLANTED[fault]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.commands.plan.main", planted)
    monkeypatch.setattr("orchestrator.commands.show.main", planted)
    assert words in problem_of("recipes", 0, tmp_path, seconds=1 if fault == "hang" else 20)
