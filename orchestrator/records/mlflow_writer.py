"""MLflow runs, derived from the store.

The store is the truth and the spool. A run is logged once for each committed unit, tagged with the
unit's key, and looked up before it is created. A server that is away, slow, locked or failing
delays that and fails nothing. The next invocation logs what is missing. Time stamps come from the
store, so logging a half-logged unit again changes nothing.

One writer thread in the driver; MLflow is imported there, not on the way to the first unit.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.documents import Results, Tuned
from ..base.errors import first_line
from ..base.files import write_synced
from ..base.text import redact
from ..base.values import digest
from ..plan.data import ExperimentData
from ..plan.rows import Plan
from ..plan.units import Unit
from ..recipe.places import sqlite_path
from ..recipe.sections import Recipe
from ..store import Store
from .mlflow_runs import MlflowRuns
from .mlflow_server import experiment_name, tracking_uri
from .mlflow_view import view_link

FLUSH_SECONDS = 120.0  # at most so long is waited at the end while something is still being written
PATIENCE_SECONDS = 15.0  # and so long for a server that fails
INTERRUPTED_SECONDS = 3.0
RETRY_SECONDS = 15.0
BEAT_SECONDS = 60.0
REQUEST_SECONDS = 10
REFUSALS = 3
LOGGED_KINDS = ("train", "unlearn", "attack")
MARKER = "mlflow.json"


@dataclass(frozen=True)
class Trials:
    """The settings that a league tried."""

    tuned: Sequence[Tuned]


@dataclass
class _Item:
    """Something to log, and how often a server that answers otherwise has refused it."""

    value: Unit | Trials | Results | str  # a str ends the parent run with that status
    refusals: int = 0

    @property
    def ends(self) -> bool:
        return isinstance(self.value, str)


def _write_to(runs: MlflowRuns, value: Unit | Trials | Results | str) -> None:
    if isinstance(value, Unit):
        runs.log_unit(value)
    elif isinstance(value, Trials):
        runs.log_trials(value.tuned)
    elif isinstance(value, str):
        runs.end(value)
    else:
        runs.log_results(value)


class Tracker:
    """Logs an experiment to MLflow: a parent run, one child run for each model and attacker, one
    for each result row.
    """

    def __init__(self, recipe: Recipe, plan: Plan, data: ExperimentData, store: Store, folder: Path):
        self.notes: list[str] = []
        self._recipe, self._plan, self._folder = recipe, plan, folder
        self._make: Callable[[], MlflowRuns] = lambda: MlflowRuns(recipe, plan, data, store, folder)
        self._queue: queue.Queue[_Item | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._runs: MlflowRuns | None = None
        self._waiting: list[_Item] = []
        self._refused: list[_Item] = []
        self._hurry = False
        self._deadline = float("inf")
        self._last_failure = 0.0
        self._problem = ""

    def start(self) -> None:
        """Starts the writer, unless tracking is off."""
        if self._recipe.tracking.uri:
            # No retries inside MLflow: it would repeat a request that made a run, without looking
            # whether it did.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_SECONDS))
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
            self._thread = threading.Thread(target=self._write, daemon=True, name="mlflow")
            self._thread.start()

    def is_complete(self) -> bool:
        """Whether an earlier invocation logged all of this plan to this place: then MLflow need not
        even be imported.
        """
        if not self._recipe.tracking.uri:
            return True
        path = sqlite_path(tracking_uri(self._recipe))
        if path is not None and not path.is_file():
            return False
        try:
            return bool(json.loads((self._folder / MARKER).read_text()) == self._identity())
        except (OSError, ValueError):
            return False

    def _identity(self) -> dict[str, str]:
        keys = sorted(unit.key for unit in self._plan.units())
        uri = redact(tracking_uri(self._recipe))
        return {"uri": uri, "experiment": experiment_name(self._recipe), "units": digest(keys)}

    def unit_done(self, unit: Unit) -> None:
        """Queues a committed unit."""
        if self._thread is not None and unit.kind in LOGGED_KINDS:
            self._queue.put(_Item(unit))

    def log_trials(self, tuned: Sequence[Tuned]) -> None:
        """Queues the settings that a league tried."""
        if self._thread is not None and tuned:
            self._queue.put(_Item(Trials(tuned)))

    def finish(self, document: Results, failed: int) -> None:
        """Logs the result rows and artifacts, ends the parent run and waits, with a limit, until
        all is written.
        """
        if self._thread is None:
            return
        self._queue.put(_Item(document))
        self.close("FAILED" if failed else "FINISHED", patient=True)

    def close(self, status: str, *, patient: bool = False) -> None:
        """Ends the parent run with `status` and stops the writer; without patience at once,
        whatever still waits.
        """
        if self._thread is None:
            return
        limit = FLUSH_SECONDS if patient else INTERRUPTED_SECONDS
        self._deadline = time.monotonic() + limit
        self._hurry = not patient  # units that wait are in the store: the next invocation logs them
        self._queue.put(_Item(status))
        self._queue.put(None)
        self._thread.join(timeout=limit)
        left = [item for item in (*self._waiting, *self._refused) if not item.ends]
        where = redact(tracking_uri(self._recipe))
        if self._thread.is_alive() or self._waiting or self._refused:
            count = len(left) + sum(1 for item in list(self._queue.queue) if item is not None and not item.ends)
            why = f" ({self._problem})" if self._problem else ""
            self.notes.append(
                f"MLflow at {where} did not take everything{why}: {count or 'the last'} items wait; the same command again logs them"
            )
        elif status == "FINISHED":
            write_synced(self._folder / MARKER, json.dumps(self._identity()).encode())
            self.notes.append(f"MLflow: experiment {experiment_name(self._recipe)!r} at {where}")
            if self._runs is not None:
                self.notes.append(f"MLflow: results at {view_link(tracking_uri(self._recipe), self._runs.experiment)}")
        self._thread = None

    # Everything below runs in the writer thread.

    def _write(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=BEAT_SECONDS)
            except queue.Empty:
                self._beat()
                self._drain()
                continue
            if item is None:
                self._drain_last()
                return
            self._waiting.append(item)
            self._drain()

    def _beat(self) -> None:
        if self._runs is not None:
            self._attempt(self._runs.beat)

    def _drain(self) -> None:
        """Writes what waits, in order; leaves it, and a failing server alone for a while, where
        that does not work.
        """
        if self._last_failure and time.monotonic() - self._last_failure < RETRY_SECONDS:
            return
        while self._waiting and not self._hurry:
            if not self._log_first():
                return

    def _drain_last(self) -> None:
        """Writes what waits until the server has failed for some time, or the time at the end is
        over.
        """
        self._waiting = [*self._refused, *self._waiting]
        self._refused = []
        failing_since, pause = 0.0, 0.5
        while self._waiting and time.monotonic() < self._deadline:
            if self._hurry and not self._waiting[0].ends:
                self._waiting.pop(0)
                continue
            if self._log_first():
                failing_since, pause = 0.0, 0.5
                continue
            now = time.monotonic()
            failing_since = failing_since or now
            if now - failing_since > PATIENCE_SECONDS:
                return
            time.sleep(max(0.0, min(pause, self._deadline - now)))
            pause = min(4.0, 2 * pause)

    def _log_first(self) -> bool:
        """Logs the first of what waits; returns False, and keeps it, where the server fails."""
        item = self._waiting[0]
        if self._runs is None:
            runs = self._make()
            if not self._attempt(runs.connect):
                return False
            self._runs = runs
        runs = self._runs
        if not self._attempt(lambda: _write_to(runs, item.value)):
            # It may be the server or this item: one that is refused again and again must not hold
            # the others up.
            item.refusals += 1
            if item.refusals < REFUSALS:
                return False
            self._refused.append(item)
        self._waiting.pop(0)
        return True

    def _attempt(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # tracking never fails an experiment
            self._problem = redact(first_line(error))[:200]
            self._last_failure = time.monotonic()
            self._runs = None  # what the server did is looked up before anything is done again
            return False
        self._last_failure = 0.0
        return True
