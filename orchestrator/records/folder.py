"""The output folder: its files, who is at work on it, and its log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unlearn.core.paths import local_path

from ..base.documents import LogLine, Results
from ..base.errors import EnvironmentFault, UserError
from ..base.files import sweep, write_synced
from ..base.processes import worker
from ..base.text import redact
from ..base.yaml_text import dump
from . import events, ownership
from .checksums import Checksums
from .events import Event
from .lock import LOCK, FolderLock, is_at_work
from .rerun import RUN, Rerun, command_again, read_rerun

if TYPE_CHECKING:
    from ..plan.units import Outcome, Unit
    from ..recipe.sections import Recipe

PARTS = ("outputs", "tables", "figures")
SHADOWS = "shadows"  # of a verification: the folder in its folder where units run


class OutputFolder:
    """One experiment's folder: `recipe.yaml`, `events.jsonl`, `log.jsonl`, `results.json`,
    `outputs/`, `tables/`, `figures/`, `report.html`.
    """

    def __init__(self, path: str | Path):
        self.path = local_path(path).absolute()
        self._lock = FolderLock(self.path)
        self._attempts: Counter[str] | None = None
        self._fresh = False  # whether `take` created the folder

    def create(self) -> None:
        """Creates the folder; raises `EnvironmentFault` where that is not possible."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_writable(self.path, error) from None

    def lock(self) -> None:
        """Locks the folder for this process and starts the heartbeat. The lock ends with the
        process.

        **Raises:** `EnvironmentFault` where another run uses the folder, here or on another
        machine.
        """
        try:
            self._lock.acquire()
        except OSError as error:
            raise _not_writable(self.path, error) from None

    def take(self, owner: ownership.Owner, force: bool = False) -> None:
        """Creates the folder, locks it and marks it as `owner`'s. Call `unlock` when the work is
        done.

        **Arguments:** `force`: also where the folder holds foreign files or belongs to something
        else.

        **Raises:** `UserError` in those two cases, before anything is written. `EnvironmentFault`
        where the folder cannot be written, or another run is at work on it.
        """
        ownership.check(self.path, owner, force)
        self._fresh = not self.path.exists()
        self.create()
        self.lock()
        try:
            ownership.check(self.path, owner, force)  # another process may have been faster
            ownership.mark(self.path, owner)
            sweep(self.path, PARTS)
        except OSError as error:
            self.unlock()
            raise _not_writable(self.path, error) from None
        except BaseException:
            self.unlock()
            raise

    def abandon(self) -> None:
        """Gives the folder back before any result was written; a folder that `take` created is
        removed again.
        """
        self.unlock()
        names = {path.name for path in self.path.iterdir()}
        if self._fresh and names <= {ownership.MARKER, LOCK}:
            for name in names:
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()

    def is_locked(self) -> bool:
        """Whether a run uses the folder now, here or on another machine."""
        return is_at_work(self.path)

    def unlock(self) -> None:
        """Unlocks the folder."""
        self._lock.release()

    def write_recipe(self, recipe: Recipe, store_uri: str, again: str = "") -> None:
        """Writes the resolved recipe and which store holds its results.

        **Arguments:** `again`: the command that goes on, where the recipe does not say all.
        """
        write_synced(self.path / "recipe.yaml", dump(recipe.document).encode())
        Rerun(store_uri, again).write(self.path)

    def recipe(self) -> Recipe:
        """Returns the recipe that was run here; raises `EnvironmentFault` where the folder holds no
        experiment.
        """
        path = self.path / "recipe.yaml"
        if not path.is_file():
            raise EnvironmentFault(
                f"{self.path}: no experiment here (recipe.yaml is missing); give the folder that `orchestrator run` named"
            )
        from ..recipe.recipe import load_recipe  # brings torch, which `status` need not wait for

        return load_recipe(path)

    def store_uri(self) -> str:
        """Returns the store of the experiment that was run here; raises `EnvironmentFault` where
        that cannot be read.
        """
        facts = read_rerun(self.path)
        if facts is None:
            # Guessing would look for finished work in the wrong place, and do it again there.
            raise EnvironmentFault(
                f"{self.path / RUN}: cannot be read, it says which store holds the results; the `orchestrator run` "
                "command that made this folder writes it again"
            )
        return facts.store

    def results(self) -> Results | None:
        """Returns the results document that lies here. None where there is none, or not the one
        that was written.
        """
        if Checksums(self.path).damaged(self.path / "results.json"):
            return None
        try:
            document: Results = json.loads((self.path / "results.json").read_text())
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) and "environment" in document else None

    def seal(self, paths: Iterable[Path]) -> None:
        """Records the checksums of derived files, so that the next invocation notices damage."""
        Checksums(self.path).record(paths)

    def seal_report(self, written: Sequence[Path]) -> None:
        """Records the files of a report, and removes tables and figures of an earlier one that it
        no longer has.

        Only files that were recorded as ours are removed.
        """
        checksums = Checksums(self.path)
        for path in set(checksums.recorded()) - set(written):
            if path.parent in (self.path / "figures", self.path / "tables"):
                path.unlink(missing_ok=True)
        checksums.record(written)

    def report_is_whole(self) -> bool:
        """Whether the page, figures and tables are there as they were written."""
        derived = [
            path
            for path in Checksums(self.path).recorded()
            if path.name == "report.html" or path.parent.name in ("figures", "tables")
        ]
        return self.path / "report.html" in derived and Checksums(self.path).intact(derived)

    def append_event(self, event: Event) -> None:
        """Adds one line to the log of events."""
        events.append(self.path / events.EVENTS, event)

    def log(self, message: str, level: str = "info") -> None:
        """Adds one line of the driver to the log."""
        record: LogLine = {
            "level": level,
            "logger": "orchestrator",
            "message": redact(message),
            **worker(),
            "role": "driver",
        }
        events.append(self.path / events.LOG, record)

    def log_begin(self, recipe: str) -> None:
        """Records that an invocation begins here."""
        self.append_event({"event": "start", "recipe": recipe, **worker()})

    def log_engine(self, where: str, slots: int) -> None:
        """Records where units run, and how many at once."""
        self.append_event({"event": "engine", "where": where, "slots": slots})

    def log_stage(self, stage: str, units: Sequence[Unit], reused: int) -> None:
        """Records that a stage begins with `units` to execute, where `reused` more are stored."""
        cost = sum(unit.cost for unit in units)
        self.append_event({"event": "stage_start", "stage": stage, "units": len(units), "reused": reused, "cost": cost})

    def log_start(self, stage: str, unit: Unit, where: str = "") -> None:
        """Records that a worker begins with a unit."""
        attempt = self._attempt_of(unit.key, begins=True)
        event: Event = {"event": "unit_start", "stage": stage, "unit": unit.key, "name": unit.name}
        self.append_event({**event, "where": where, "attempt": attempt})

    def log_outcome(self, stage: str, outcome: Outcome, cost: float | None = None) -> None:
        """Records what became of a unit, and what its worker said."""
        attempt = self._attempt_of(outcome.key)
        event: Event = {
            "event": "unit",
            "stage": stage,
            "unit": outcome.key,
            "name": outcome.name,
            "status": outcome.status,
            "seconds": round(outcome.seconds, 4),
            "where": outcome.where,
            "attempt": attempt,
        }
        if cost is not None:
            event["cost"] = cost
        if outcome.failed:
            event["error"], event["traceback"] = redact(outcome.error), redact(outcome.traceback)
        self.append_event(event)
        if outcome.log:
            about: LogLine = {
                "unit": outcome.key,
                "name": outcome.name,
                "stage": stage,
                "attempt": attempt,
                "role": "worker",
            }
            lines: list[LogLine] = [
                {**line, **about, "message": redact(str(line.get("message", "")))} for line in outcome.log
            ]
            events.append(self.path / events.LOG, *lines)

    def _attempt_of(self, key: str, begins: bool = False) -> int:
        """Returns which attempt at a unit this is, over all invocations."""
        if self._attempts is None:
            self._attempts = Counter(event["unit"] for event in self.events("unit_start"))
        if begins:
            self._attempts[key] += 1
        return max(1, self._attempts[key])

    def events(self, *kinds: str) -> Iterator[Event]:
        """Yields the recorded events, all or those of these kinds, oldest first. Those that damage
        has left incomplete are left out."""
        return (event for event in events.read(self.path / events.EVENTS, *kinds) if events.is_whole(event))

    def failures(self) -> dict[str, str]:
        """Returns the units whose last recorded outcome is a failure, key → one line."""
        found: dict[str, str] = {}
        for event in self.events("unit"):
            if event["status"] == "failed":
                found[event["unit"]] = event.get("error", "failed")
            else:
                found.pop(event["unit"], None)
        return found

    def stage_seconds(self) -> dict[str, float]:
        """Returns the wall seconds spent in each stage, over all invocations."""
        found: dict[str, float] = {}
        for event in self.events("stage_end"):
            found[event["stage"]] = found.get(event["stage"], 0.0) + float(event["seconds"])
        return found


def _not_writable(path: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(f"output folder {path}: cannot be written ({error.strerror}); choose another with --output")


def open_folder(path: Path) -> OutputFolder:
    """Returns the output folder at `path`, of a verification the one where its units run.

    **Raises:** `UserError` where it holds no experiment.
    """
    folder = OutputFolder(path)
    if not (folder.path / "recipe.yaml").is_file() and (folder.path / SHADOWS / "recipe.yaml").is_file():
        folder = OutputFolder(folder.path / SHADOWS)
    if not (folder.path / "recipe.yaml").is_file():
        raise UserError(
            f"{path}: no experiment here (recipe.yaml is missing); give the folder that `orchestrator run` named"
        )
    return folder


def open_whole(path: Path) -> OutputFolder:
    """Returns the output folder at `path`, whose recipe says all that is in it.

    **Raises:** `UserError` with the command that goes on, where more was asked than the recipe
    says, as by `orchestrator verify`.
    """
    folder = open_folder(path)
    if again := command_again(folder.path):
        raise UserError(f"{path}: its recipe does not name the models under test; this goes on with it: {again}")
    return folder
