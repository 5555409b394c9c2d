"""The state of an experiment, put together from its log of events alone: cheap, safe beside a run
at work, anywhere.

Following costs what is new only, so that a run of a hundred thousand units can be watched for days.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict

from . import events
from .events import Event
from .lock import LOOK_SECONDS, Heartbeat, is_at_work, is_locked, read_heartbeat
from .progress import seconds_left
from .rerun import command_again

WINDOW = 50  # units whose times tell the present rate


# A unit at work: where, since when (seconds since 1970), and for how many seconds.
RunningUnit = TypedDict(
    "RunningUnit",
    {
        "name": str,
        "stage": str,
        "where": str | None,
        "attempt": int | None,
        "since": float,
        "for": NotRequired[float],
    },
)


class FailedUnit(TypedDict):
    """A unit whose last attempt failed."""

    name: str
    error: str
    where: str
    stage: str
    attempt: int
    time: float


class StageCounts(TypedDict):
    """How far a stage is; seconds and rates are null where they are not known."""

    to_do: int
    stored: int
    done: int
    failed: int
    left: int
    since: float
    seconds: float | None
    units_per_second: float | None
    seconds_left: float | None
    mean_unit_seconds: float | None


class StateDocument(TypedDict):
    """What `orchestrator status --json` prints."""

    folder: str
    recipe: str
    state: str
    driver: str
    where: str
    slots: int | None
    started: float | None
    last_event: float
    stages: dict[str, StageCounts]
    running: dict[str, RunningUnit]
    failures: dict[str, FailedUnit]
    again: str  # the command that goes on


class AttemptRecord(TypedDict):
    """One attempt at a unit: when it began and ended (seconds since 1970), and how."""

    attempt: int
    status: str
    began: NotRequired[float]
    ended: NotRequired[float]
    where: NotRequired[str]
    seconds: NotRequired[float]
    error: NotRequired[str]
    traceback: NotRequired[str]


class UnitHistory(TypedDict):
    """All that is recorded of a unit."""

    unit: str
    name: str
    stage: str
    attempts: list[AttemptRecord]
    log: list[Mapping[str, object]]


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
        self.running: dict[str, RunningUnit] = {}
        self.failures: dict[str, FailedUnit] = {}
        self.end = ""
        self.at_work = False
        self.beat: Heartbeat | None = None
        self._beaten = 0.0

    def update(self, *, wait: bool = True) -> list[Event]:
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

    def _take(self, event: Event) -> None:
        stamp = float(event.get("time", self.last_event))
        self.last_event = stamp
        match event["event"]:
            case "start":
                self.recipe, self.started, self.end = str(event.get("recipe", "")), stamp, ""
                self.driver = f"process {event['pid']} on {event['host']}" if "pid" in event else ""
                self.stages, self.running = {}, {}
            case "engine":
                self.where, self.slots = str(event["where"]), event.get("slots")
            case "stage_start":
                self.stages[event["stage"]] = StageState(event["units"], event["reused"], stamp, event.get("cost"))
            case "unit_start":
                self.running[event["unit"]] = {
                    "name": event["name"],
                    "stage": event["stage"],
                    "where": event.get("where"),
                    "attempt": event.get("attempt"),
                    "since": stamp,
                }
            case "unit":
                self._take_unit(event, stamp)
            case "broken":
                if stage := self.stages.get(event["stage"]):
                    stage.to_do -= 1
                    stage.cost = (stage.cost or 0.0) - float(event.get("cost", 0.0))
            case "stage_end":
                if event["stage"] in self.stages:
                    self.stages[event["stage"]].seconds = float(event["seconds"])
                self.running = {key: about for key, about in self.running.items() if about["stage"] != event["stage"]}
            case "interrupted":
                self.running, self.end = {}, "interrupted"
            case "finished":
                self.running, self.end = {}, "failed units" if event["failed"] else "finished"

    def _take_unit(self, event: Event, stamp: float) -> None:
        stage = self.stages.setdefault(event["stage"], StageState(0, 0, stamp))
        self.running.pop(event["unit"], None)
        stage.ends.append(stamp)
        stage.cost_done += float(event.get("cost", 0.0))
        stage.unit_seconds += float(event.get("seconds", 0.0))
        if event["status"] == "failed":
            stage.failed += 1
            self.failures[event["unit"]] = {
                "name": event["name"],
                "error": event.get("error", ""),
                "where": event.get("where", ""),
                "stage": event["stage"],
                "attempt": event.get("attempt", 1),
                "time": stamp,
            }
        else:
            stage.done += 1
            self.failures.pop(event["unit"], None)

    def document(self, now: float | None = None) -> StateDocument:
        """Returns everything as JSON data; what is not known is null."""
        now = time.time() if now is None else now
        stages: dict[str, StageCounts] = {}
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
        running: dict[str, RunningUnit] = {
            key: {**about, "for": max(0.0, now - about["since"])} for key, about in self.running.items()
        }
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
            "again": command_again(self.folder) or f"orchestrator retry {self.folder}",
        }


def units_named(wanted: str, names: Mapping[str, str]) -> set[str]:
    """Returns the keys of the units that `wanted` names: a name, the beginning of names, a key, or
    eight or more first digits of one.

    **Arguments:** `names`: key → name.
    """
    if exact := {key for key, name in names.items() if wanted in (name, key)}:
        return exact
    return {
        key
        for key, name in names.items()
        if wanted and (name.startswith(wanted) or (len(wanted) >= 8 and key.startswith(wanted)))
    }


def unit_history(folder: Path, wanted: str) -> list[UnitHistory]:
    """Returns all that is recorded of the units that `wanted` names, as `units_named` says.

    Each has `unit`, `name`, `stage`, `attempts` (what began and how it ended, with error and
    traceback) and `log`.
    """

    told = [
        event
        for event in events.read(folder / events.EVENTS)
        if events.is_whole(event) and event["event"] in ("unit_start", "unit")
    ]
    meant = units_named(wanted, {event["unit"]: event["name"] for event in told})
    found: dict[str, UnitHistory] = {}
    for event in told:
        if event["unit"] not in meant:
            continue
        unit = found.setdefault(
            event["unit"],
            {"unit": event["unit"], "name": event["name"], "stage": event["stage"], "attempts": [], "log": []},
        )
        attempts = unit["attempts"]
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
        if not attempts or attempts[-1]["status"] != "began":
            attempts.append({"attempt": event.get("attempt", 1), "status": ""})
        _end(attempts[-1], event)
    for line in events.read(folder / events.LOG):
        key = str(line.get("unit"))
        if key in found:
            found[key]["log"].append(line)
    return list(found.values())


def _end(attempt: AttemptRecord, event: Event) -> None:
    """Writes into an attempt how it ended."""
    attempt["status"], attempt["ended"] = event["status"], event["time"]
    if "where" in event or "where" in attempt:
        attempt["where"] = event.get("where") or attempt.get("where", "")
    if "seconds" in event:
        attempt["seconds"] = event["seconds"]
    if "error" in event:
        attempt["error"] = event["error"]
    if "traceback" in event:
        attempt["traceback"] = event["traceback"]
