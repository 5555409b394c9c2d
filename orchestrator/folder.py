"""The output folder: its files, its lock, and its log of events."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .checksums import Checksums
from .errors import EnvironmentFault
from .recipe import Recipe, load_recipe, to_yaml
from .store.local import write_synced
from .units import Outcome


class OutputFolder:
    """One experiment's folder: `recipe.yaml`, `events.jsonl`, `results.json`, `outputs/`, `tables/`, `figures/`, `report.html`."""

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser().absolute()
        self._lock: int | None = None

    def create(self) -> None:
        """Creates the folder; raises `EnvironmentFault` where that is not possible."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault(
                f"output folder {self.path}: cannot be created ({error.strerror}); choose another with --output"
            ) from None

    def lock(self) -> None:
        """Takes the folder for this process; the lock goes with the process, however it ends."""
        handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(handle, 100).decode(errors="replace").strip()
            os.close(handle)
            raise EnvironmentFault(
                f"output folder {self.path}: another run is at work on it ({owner or 'unknown process'}); "
                f"follow it with `orchestrator watch {self.path}`"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()}".encode(), 0)
        self._lock = handle

    def is_locked(self) -> bool:
        """Whether a run is at work on the folder now."""
        try:
            handle = os.open(self.path / ".lock", os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False

    def unlock(self) -> None:
        """Gives the folder back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write_recipe(self, recipe: Recipe, store_uri: str) -> None:
        """Writes the resolved recipe and which store holds its results."""
        write_synced(self.path / "recipe.yaml", to_yaml(recipe).encode())
        write_synced(self.path / "run.json", json.dumps({"store": store_uri}).encode())

    def recipe(self) -> Recipe:
        """Returns the recipe that was run here; raises `EnvironmentFault` where the folder holds no experiment."""
        path = self.path / "recipe.yaml"
        if not path.is_file():
            raise EnvironmentFault(
                f"{self.path}: no experiment here (recipe.yaml is missing); give the folder that `orchestrator run` named"
            )
        return load_recipe(path)

    def store_uri(self) -> str:
        """Returns the store of the experiment that was run here; raises `EnvironmentFault` where that cannot be read."""
        try:
            return str(json.loads((self.path / "run.json").read_bytes())["store"])
        except (OSError, ValueError, KeyError, TypeError):
            # Guessing would look for finished work in the wrong place, and do it again there.
            raise EnvironmentFault(
                f"{self.path / 'run.json'}: cannot be read, it says which store holds the results; the `orchestrator run` "
                "command that made this folder writes it again"
            ) from None

    def results(self) -> dict[str, Any]:
        """Returns the results document that lies here, empty where there is none, or not the one that was written."""
        if Checksums(self.path).damaged(self.path / "results.json"):
            return {}
        try:
            document = json.loads((self.path / "results.json").read_text())
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def seal(self, paths: Iterable[Path]) -> None:
        """Records the checksums of derived files, so that the next invocation notices damage."""
        Checksums(self.path).record(paths)

    def report_is_whole(self) -> bool:
        """Whether the page, figures and tables are there as they were written."""
        derived = [
            path
            for path in Checksums(self.path).recorded()
            if path.name == "report.html" or path.parent.name in ("figures", "tables")
        ]
        return self.path / "report.html" in derived and Checksums(self.path).intact(derived)

    def append_event(self, event: dict[str, Any]) -> None:
        """Adds one line to the log of events. A line torn by a crash, or a full disk, is skipped when it is read."""
        line = json.dumps({"time": round(time.time(), 3), **event}) + "\n"
        with (self.path / "events.jsonl").open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = "\n" + line  # a torn line must not take this one with it
            file.write(line.encode())

    def log_outcome(self, stage: str, outcome: Outcome) -> None:
        """Records what became of a unit."""
        event = {
            "event": "unit",
            "stage": stage,
            "unit": outcome.key,
            "name": outcome.name,
            "status": outcome.status,
            "seconds": round(outcome.seconds, 4),
            "where": outcome.where,
        }
        if outcome.failed:
            event |= {"error": outcome.error, "traceback": outcome.traceback}
        self.append_event(event)

    def events(self) -> Iterator[dict[str, Any]]:
        """Yields the recorded events, oldest first, but those that damage has left incomplete."""
        try:
            with (self.path / "events.jsonl").open(encoding="utf-8", errors="replace") as file:
                for line in file:
                    try:
                        event = json.loads(line)
                    except ValueError:
                        continue
                    if isinstance(event, dict) and _is_whole(event):
                        yield event
        except FileNotFoundError:
            return

    def failures(self) -> dict[str, str]:
        """Returns the units whose last recorded outcome is a failure, key → one line."""
        found: dict[str, str] = {}
        for event in self.events():
            if event.get("event") == "unit":
                if event["status"] == "failed":
                    found[event["unit"]] = event.get("error", "failed")
                else:
                    found.pop(event["unit"], None)
        return found

    def stage_seconds(self) -> dict[str, float]:
        """Returns the wall seconds spent in each stage, over all invocations."""
        found: dict[str, float] = {}
        for event in self.events():
            if event.get("event") == "stage_end":
                found[event["stage"]] = found.get(event["stage"], 0.0) + float(event["seconds"])
        return found


_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "unit": {"stage": str, "unit": str, "name": str, "status": str},
    "stage_start": {"stage": str, "units": int, "reused": int},
    "stage_end": {"stage": str, "seconds": (int, float)},
    "finished": {"failed": int},
}


def _is_whole(event: dict[str, Any]) -> bool:
    """Whether an event has the fields of its kind."""
    kind = event.get("event")
    if not isinstance(kind, str) or not isinstance(event.get("time"), int | float):
        return False
    return all(isinstance(event.get(name), types) for name, types in _FIELDS.get(kind, {}).items())
