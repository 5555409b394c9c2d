"""Progress with ETA on long work: one live line on a terminal, plain lines elsewhere. Everything
goes to standard error.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from ..plan.stages import STAGE_TITLES

if TYPE_CHECKING:
    from ..plan.units import Outcome  # brings torch, which `status` need not wait for

PLAIN_INTERVAL = 10.0
LIVE_INTERVAL = 0.1
SAME_ERROR_LINES = 3
JOINING = "joining Ray at"  # `submit` waits for this line: data and model are fine by then


def duration(seconds: float) -> str:
    """Returns seconds as a person would say them: `8s`, `3m 20s`, `2h 05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def seconds_left(elapsed: float, done: int, total: int, cost_done: float, cost: float) -> float | None:
    """Returns the seconds that a stage will still take; None before any unit has ended.

    It is the mean of two estimates, by units and by their costs. Large units go first, so the first
    is too high where costs are right. The second is too low where the costs of one method are set
    too low against another's.
    """
    if not done:
        return None
    by_units = elapsed / done * max(0, total - done)
    if cost <= 0 or cost_done <= 0:
        return by_units
    return (by_units + elapsed * max(0.0, cost - cost_done) / cost_done) / 2


@dataclass
class StageCount:
    """How far a stage of this invocation is.

    - `to_do`: units to execute. `reused`: units that were stored before.
    - `ended`: units that were made, or failed. `failed`: of these.
    - `seconds`: the stage's share of the wall time. Stages overlap, and their shares add up to it.
    """

    to_do: int
    reused: int
    ended: int = 0
    failed: int = 0
    seconds: float = 0.0
    begun: bool = False

    @property
    def over(self) -> bool:
        return self.ended >= self.to_do


class Progress:
    """Follows one run: how far each stage is, and an ETA for all of them together."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False, log: Callable[[str], None] | None = None):
        """**Arguments:** `log`: told every line as well, also where nothing is printed."""
        self._log = log
        self._stream = stream
        self.quiet = quiet
        self.live = not quiet and self.stream.isatty()
        self._lock = threading.Lock()
        self._stages: Mapping[str, StageCount] = {}
        self._errors: Counter[str] = Counter()
        self._weight = self._made = 0.0
        self._started = self._printed = 0.0
        self._working = 0.0  # when the first unit began
        self._counted = 0.0  # when the last one ended
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None

    @property
    def stream(self) -> TextIO:
        """Where lines go: standard error as it is now. A Ray session replaces it for a while."""
        return self._stream or sys.stderr

    def say(self, text: str) -> None:
        """Prints one line."""
        if self._log is not None:
            self._log(text.strip())
        if self.quiet:
            return
        with self._lock:
            self._write(f"\r\x1b[2K{text}\n" if self.live else f"{text}\n")

    def _write(self, text: str) -> None:
        """Writes to the stream; whose reader is gone, or that is full, is told nothing more: the
        work goes on.
        """
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            self.quiet = True

    def counting(self, title: str) -> CountProgress:
        """Returns a callback `(done, total)` that shows a count, for work that is not made of
        units.
        """
        return CountProgress(self, title)

    def follow(self, stages: Mapping[str, StageCount], weight: float) -> None:
        """Begins to show how far `stages` are.

        **Arguments:** `weight`: of all units to execute, as `weight_of` measures it.
        """
        self._stages, self._weight, self._made = stages, weight, 0.0
        self._errors.clear()
        self._started = self._printed = time.monotonic()
        self._working = self._counted = 0.0
        if weight and not self.quiet:
            self._stop.clear()
            self._ticker = threading.Thread(target=self._run_ticker, daemon=True, name="progress")
            self._ticker.start()

    def begin_stage(self, stage: str) -> None:
        """Says what a stage has to do."""
        count, title = self._stages[stage], STAGE_TITLES[stage]
        if count.to_do:
            self._working = self._working or time.monotonic()
            self.say(f"{title}: {count.to_do} to do{f', {count.reused} already stored' if count.reused else ''}")
        elif count.reused:
            self.say(f"{title}: all {count.reused} already stored")

    def unit(self, outcome: Outcome, weight: float) -> None:
        """Counts a unit and says so at once where it failed."""
        self._made += weight
        self._counted = time.monotonic()
        if outcome.failed:
            self._say_failed(outcome)
        self._tick()

    def end_stage(self, stage: str) -> None:
        """Says how many units of a stage were executed, and how long that took."""
        count = self._stages[stage]
        failed = f", {count.failed} failed" if count.failed else ""
        self.say(f"{STAGE_TITLES[stage]}: {count.ended} done{failed} in {duration(count.seconds)}")

    def _say_failed(self, outcome: Outcome) -> None:
        """Says each distinct error a few times only: a thousand units may fail for one reason."""
        self._errors[outcome.error] += 1
        count = self._errors[outcome.error]
        if count <= SAME_ERROR_LINES:
            self.say(f"  failed: {outcome.name}: {outcome.error}")
        elif count == SAME_ERROR_LINES + 1:
            self.say("  failed: more units with that error; `orchestrator status` lists them all")

    def line(self) -> str:
        """Returns the current state in one line."""
        counts = [
            f"{STAGE_TITLES[name]} {count.ended}/{count.to_do}{f' ({count.failed} failed)' if count.failed else ''}"
            for name, count in self._stages.items()
            if count.begun and not count.over
        ]
        now, eta = time.monotonic(), "estimating"
        if self._made:
            then = (self._counted - self._working) * max(0.0, self._weight - self._made) / self._made
            # Units at work have got on since, but may take longer than those before.
            eta = f"about {duration(max(then - (now - self._counted), then / 10))} left"
        return f"  {', '.join(counts) or 'waiting for workers'}; {duration(now - self._started)} so far, {eta}"

    def _stop_ticker(self) -> None:
        self._stop.set()
        if self._ticker is not None:
            self._ticker.join(timeout=2)
            self._ticker = None
        if self.live and not self.quiet:
            with self._lock:
                self._write("\r\x1b[2K")

    def _run_ticker(self) -> None:
        while not self._stop.wait(1.0):
            self._tick()

    def _tick(self) -> None:
        if self.quiet:
            return
        now = time.monotonic()
        interval = LIVE_INTERVAL if self.live else PLAIN_INTERVAL
        with self._lock:
            if now - self._printed < interval:
                return
            self._printed = now
            self._write(f"\r\x1b[2K{self.line()}" if self.live else f"{self.line()}\n")

    def close(self) -> None:
        """Stops showing how far the run is."""
        self._stop_ticker()


class CountProgress:
    """Shows a count with ETA, at most every few seconds."""

    def __init__(self, progress: Progress, title: str):
        self.progress = progress
        self.title = title
        self.started = time.monotonic()
        self.last = self.started

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last < 3 or not 0 < done < total:
            return
        self.last = now
        left = (now - self.started) / done * (total - done)
        self.progress.say(f"  {self.title}: {done:,}/{total:,}, about {duration(left)} left")
