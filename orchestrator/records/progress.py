"""Progress with ETA on long work: one live line on a terminal, plain lines elsewhere. Everything
goes to standard error.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from ..plan.units import STAGE_TITLES, Outcome, Unit

PLAIN_INTERVAL = 10.0
LIVE_INTERVAL = 0.1
SAME_ERROR_LINES = 3


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


class Progress:
    """Follows one run stage by stage.

    The ETA of a stage is that of `seconds_left`; a stage that has not finished a unit yet has none.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False, log: Callable[[str], None] | None = None):
        """**Arguments:** `log`: told every line as well, also where nothing is printed."""
        self._log = log
        self._stream = stream
        self.quiet = quiet
        self.live = not quiet and self.stream.isatty()
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._stage = ""
        self._reset({}, 0)
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None

    @property
    def stream(self) -> TextIO:
        """Where lines go: standard error as it is now. A Ray session replaces it for a while."""
        return self._stream or sys.stderr

    def _reset(self, costs: dict[str, float], reused: int) -> None:
        self._costs = costs
        self._reused = reused
        self._done = 0
        self._failed = 0
        self._errors: dict[str, int] = {}
        self._cost_done = 0.0
        self._stage_started = time.monotonic()
        self._last_print = 0.0

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

    def stage(self, stage: str, units: Sequence[Unit], reused: int) -> None:
        """Begins a stage of `units` to execute; `reused` are already in the store."""
        with self._lock:
            self._stage = stage
            self._reset({unit.key: unit.cost for unit in units}, reused)
        if units:
            more = f", {reused} already stored" if reused else ""
            self.say(f"{STAGE_TITLES[stage]}: {len(units)} to do{more}")
            self._start_ticker()
        elif reused:
            self.say(f"{STAGE_TITLES[stage]}: all {reused} already stored")

    def unit(self, outcome: Outcome) -> None:
        """Counts a unit and says so at once where it failed."""
        with self._lock:
            self._done += 1
            self._failed += outcome.failed
            self._cost_done += self._costs.get(outcome.key, 0.0)
        if outcome.failed:
            self._say_failed(outcome)
        self._tick(final=self._done == len(self._costs))

    def _say_failed(self, outcome: Outcome) -> None:
        """Says each distinct error a few times only: a thousand units may fail for one reason."""
        count = self._errors[outcome.error] = self._errors.get(outcome.error, 0) + 1
        if count <= SAME_ERROR_LINES:
            self.say(f"  failed: {outcome.name}: {outcome.error}")
        elif count == SAME_ERROR_LINES + 1:
            self.say("  failed: more units with that error; `orchestrator status` lists them all")

    def end_stage(self) -> None:
        """Ends the stage, saying how long it took."""
        self._stop_ticker()
        if self._costs:
            failed = f", {self._failed} failed" if self._failed else ""
            self.say(
                f"{STAGE_TITLES[self._stage]}: {self._done} done{failed} in {duration(time.monotonic() - self._stage_started)}"
            )

    def line(self) -> str:
        """Returns the current state in one line."""
        total, elapsed = len(self._costs), time.monotonic() - self._stage_started
        left = seconds_left(elapsed, self._done, total, self._cost_done, sum(self._costs.values()))
        eta = "estimating" if left is None else f"about {duration(left)} left"
        failed = f", {self._failed} failed" if self._failed else ""
        return f"  {STAGE_TITLES[self._stage]}: {self._done}/{total}{failed}, {duration(elapsed)} so far, {eta}"

    def _start_ticker(self) -> None:
        if self.quiet:
            return
        self._stop.clear()
        self._ticker = threading.Thread(target=self._run_ticker, daemon=True, name="progress")
        self._ticker.start()

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

    def _tick(self, final: bool = False) -> None:
        if self.quiet:
            return
        now = time.monotonic()
        interval = LIVE_INTERVAL if self.live else PLAIN_INTERVAL
        with self._lock:
            if now - self._last_print < interval or (final and not self.live):
                return
            self._last_print = now
            self._write(f"\r\x1b[2K{self.line()}" if self.live else f"{self.line()}\n")

    def close(self) -> None:
        """Stops the ticker."""
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
