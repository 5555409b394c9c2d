"""The output folder: its files, its lock, and its log of events."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        """Returns the store of the experiment that was run here."""
        try:
            return str(json.loads((self.path / "run.json").read_text())["store"])
        except (OSError, ValueError, KeyError):
            return str(self.path / "store")

    def results(self) -> dict[str, Any]:
        """Returns the results document that lies here, empty where there is none that can be read."""
        try:
            document = json.loads((self.path / "results.json").read_text())
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def append_event(self, event: dict[str, Any]) -> None:
        """Adds one line to the log of events. A line torn by a crash is skipped when it is read."""
        line = json.dumps({"time": round(time.time(), 3), **event}) + "\n"
        with (self.path / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)

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
        """Yields the recorded events, oldest first."""
        try:
            with (self.path / "events.jsonl").open(encoding="utf-8", errors="replace") as file:
                for line in file:
                    try:
                        event = json.loads(line)
                    except ValueError:
                        continue
                    if isinstance(event, dict):
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
