"""What the line of progress says of the time that is left."""

from __future__ import annotations

import io

import pytest

from orchestrator.plan.units import Outcome
from orchestrator.records import progress
from orchestrator.records.progress import Progress, StageCount


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_the_time_left_falls_while_units_are_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers, six units of 100 s each: nothing ends between 100 s and 200 s, and the estimate must not grow."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    shown = Progress(io.StringIO())
    shown._tick = lambda: None  # type: ignore[method-assign]
    shown.follow({"train": StageCount(6, 0)}, weight=6.0)
    try:
        shown.begin_stage("train")
        assert "estimating" in shown.line()
        clock.now += 100
        for key in "ab":
            shown.unit(Outcome(key, key, "train", "done"), 1.0)
        left = {}
        for seconds in (0, 60, 100, 190, 300):
            clock.now = 1100.0 + seconds
            left[seconds] = shown.line().rpartition("about ")[2]
        assert left == {0: "3m 20s left", 60: "2m 20s left", 100: "1m 40s left", 190: "20s left", 300: "20s left"}
    finally:
        shown.close()
