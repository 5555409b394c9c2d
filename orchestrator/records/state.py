"""The state of an experiment, put together from its log of events alone: cheap, safe beside a run
at work, anywhere.

Following costs what is new only, so that a run of a hundred thousand units can be watched for days.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import events
from .lock import LOOK_SECONDS, Heartbeat, is_at_work, is_locked, read_heartbeat
from .progress import seconds_left

WINDOW = 50  # units whose times tell the present rate


@dataclass
class StageState:
    """Counts of one stage in this invocation."""

    to_do: int
    stored: int
    since: float
    cost: float | None = None
    done: int = 0
    failed: int = 0
    cost_done: float = 0.0
    unit_seconds: float = 0.0
    seconds: float | None = None
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    @property
    def finished(self) -> int:
        return self.done + self.failed

    @property
    def left(self) -> int:
        return max(0, self.to_do - self.finished)

    def rate(self, now: float) -> float | None:
        """Units a second of late; None before any has ended."""
        if not self.ends or self.seconds is not None:
            return None if not self.seconds or not self.finished else self.finished / self.seconds
        since = self.since if self.finished <= WINDOW else self.ends[0]
        return len(self.ends) / max(now - since, 1e-3)

    def seconds_left(self, now: float) -> float | None:
        """Seconds until the stage ends; None before any unit has ended."""
        if self.seconds is not None or not self.left:
            return 0.0
        return seconds_left(now - self.since, self.finished, self.to_do, self.cost_done, self.cost or 0.0)


class ExperimentState:
    """Follows the events of one output folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._tail = events.Tail(folder / events.EVENTS)
        self.recipe = ""
        self.where = ""
        self.slots: int | None = None
        self.driver = ""
        self.started: float | None = None
        self.last_event = 0.0
        self.stages: dict[str, StageState] = {}
        self.running: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, dict[str, Any]] = {}
        self.end = ""
        self.at_work = False
        self.beat: Heartbeat | None = None
        self._beaten = 0.0

    def update(self, *, wait: bool = True) -> list[dict[str, Any]]:
        """Reads what is new, and whether a driver is at work; returns the new events.

        **Arguments:** `wait`: look for some seconds at the beat of a driver on another machine;
        else compare with the last look.
        """
        new = [event for event in self._tail.new() if events.is_whole(event)]
        for event in new:
            self._take(event)
        before, self.beat = self.beat, read_heartbeat(self.folder)
        if before and self.beat and (before.run, before.count) != (self.beat.run, self.beat.count):
            self._beaten = time.monotonic()
        if wait:
            self.at_work = is_at_work(self.folder)
            self._beaten = time.monotonic()
        else:
            silent = time.monotonic() - self._beaten > LOOK_SECONDS
            elsewhere = self.beat is not None and self.beat.elsewhere and not silent
            self.at_work = is_locked(self.folder) or elsewhere
        return new

    @property
    def state(self) -> str:
        """`running`, `finished`, `failed units`, `interrupted` (by a signal) or `stopped` (without
        a word).
        """
        if self.at_work:
            return "running"
        return self.end or ("stopped" if self.started else "not started")

    def _take(self, event: dict[str, Any]) -> None:
        stamp = float(event.get("time", self.last_event))
        self.last_event = stamp
        take = getattr(self, f"_on_{event.get('event')}", None)
        if take is not None:
            take(event, stamp)

    def _on_start(self, event: dict[str, Any], stamp: float) -> None:
        self.recipe, self.started, self.end = str(event.get("recipe", "")), stamp, ""
        self.driver = f"process {event['pid']} on {event['host']}" if "pid" in event else ""
        self.stages, self.running = {}, {}

    def _on_engine(self, event: dict[str, Any], stamp: float) -> None:
        self.where, self.slots = str(event["where"]), event.get("slots")

    def _on_stage_start(self, event: dict[str, Any], stamp: float) -> None:
        self.stages[event["stage"]] = StageState(event["units"], event["reused"], stamp, event.get("cost"))

    def _on_unit_start(self, event: dict[str, Any], stamp: float) -> None:
        about = {name: event.get(name) for name in ("name", "stage", "where", "attempt")}
        self.running[event["unit"]] = {**about, "since": stamp}

    def _on_unit(self, event: dict[str, Any], stamp: float) -> None:
        stage = self.stages.setdefault(event["stage"], StageState(0, 0, stamp))
        self.running.pop(event["unit"], None)
        stage.ends.append(stamp)
        stage.cost_done += float(event.get("cost", 0.0))
        stage.unit_seconds += float(event.get("seconds", 0.0))
        if event["status"] == "failed":
            stage.failed += 1
            about = {name: event.get(name, "") for name in ("name", "error", "where", "stage")}
            self.failures[event["unit"]] = {**about, "attempt": event.get("attempt", 1), "time": stamp}
        else:
            stage.done += 1
            self.failures.pop(event["unit"], None)

    def _on_stage_end(self, event: dict[str, Any], stamp: float) -> None:
        if event["stage"] in self.stages:
            self.stages[event["stage"]].seconds = float(event["seconds"])
        self.running = {key: about for key, about in self.running.items() if about["stage"] != event["stage"]}

    def _on_interrupted(self, event: dict[str, Any], stamp: float) -> None:
        self.running, self.end = {}, "interrupted"

    def _on_finished(self, event: dict[str, Any], stamp: float) -> None:
        self.running, self.end = {}, "failed units" if event["failed"] else "finished"

    def document(self, now: float | None = None) -> dict[str, Any]:
        """Returns everything as JSON data; what is not known is null."""
        now = time.time() if now is None else now
        stages = {}
        for name, stage in self.stages.items():
            rate, left = stage.rate(now), stage.seconds_left(now)
            live = self.at_work and stage.seconds is None
            stages[name] = {
                "to_do": stage.to_do,
                "stored": stage.stored,
                "done": stage.done,
                "failed": stage.failed,
                "left": stage.left,
                "since": stage.since,
                "seconds": stage.seconds,
                "units_per_second": rate,
                "seconds_left": left if live else None,
                "mean_unit_seconds": stage.unit_seconds / stage.finished if stage.finished else None,
            }
        running = {key: {**about, "for": max(0.0, now - about["since"])} for key, about in self.running.items()}
        return {
            "folder": str(self.folder),
            "recipe": self.recipe,
            "state": self.state,
            "driver": self.driver,
            "where": self.where,
            "slots": self.slots,
            "started": self.started,
            "last_event": self.last_event,
            "stages": stages,
            "running": running if self.at_work else {},
            "failures": self.failures,
        }


def unit_history(folder: Path, wanted: str) -> list[dict[str, Any]]:
    """Returns all that is recorded of the units that `wanted` names (a name, a key, or eight or
    more first digits of one).

    Each has `unit`, `name`, `stage`, `attempts` (what began and how it ended, with error and
    traceback) and `log`.
    """

    def meant(record: dict[str, Any]) -> bool:
        key = str(record.get("unit", ""))
        return record.get("name") == wanted or (len(wanted) >= 8 and bool(key) and key.startswith(wanted))

    found: dict[str, dict[str, Any]] = {}
    for event in events.read(folder / events.EVENTS):
        if event.get("event") not in ("unit_start", "unit") or not events.is_whole(event) or not meant(event):
            continue
        unit = found.setdefault(
            event["unit"],
            {"unit": event["unit"], "name": event["name"], "stage": event["stage"], "attempts": [], "log": []},
        )
        attempts: list[dict[str, Any]] = unit["attempts"]
        if event["event"] == "unit_start":
            attempts.append(
                {
                    "attempt": event.get("attempt", 1),
                    "began": event["time"],
                    "where": event.get("where", ""),
                    "status": "began",
                }
            )
            continue
        about: dict[str, Any] = {
            name: event[name] for name in ("status", "seconds", "where", "error", "traceback") if name in event
        }
        if attempts and attempts[-1]["status"] == "began":
            attempts[-1] |= {**about, "where": about.get("where") or attempts[-1]["where"], "ended": event["time"]}
        else:
            attempts.append({"attempt": event.get("attempt", 1), "ended": event["time"], **about})
    for line in events.read(folder / events.LOG):
        if line.get("unit") in found:
            found[line["unit"]]["log"].append(line)
    return list(found.values())
