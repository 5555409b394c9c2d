"""The log of an experiment: `events.jsonl` says what happened to stages and units, `log.jsonl` what
drivers and workers said.

Both are lines of JSON, only ever appended to. A line that a crash tore is skipped when it is read.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Required, TypedDict, TypeGuard

from ..base.documents import LogLine

EVENTS = "events.jsonl"
LOG = "log.jsonl"
BLOCK = 1 << 20


class Event(TypedDict, total=False):
    """What happened to a run, a stage or a unit. `_FIELDS` says which fields each kind has."""

    event: Required[str]
    time: float
    recipe: str
    host: str
    pid: int
    where: str
    slots: int
    stage: str
    units: int
    reused: int
    cost: float
    unit: str
    name: str
    status: str
    attempt: int
    seconds: float
    error: str
    traceback: str
    failed: int
    driver_peak_mib: int


def append(path: Path, *records: Event | LogLine) -> None:
    """Adds lines in one write, each with the time where it has none."""
    now = round(time.time(), 3)
    text = "".join(json.dumps({"time": now, **record}) + "\n" for record in records)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                text = "\n" + text  # a line torn by a crash must not take this one with it
        file.write(text.encode())


class Tail:
    """Reads a file of JSON lines as it grows: each call yields what is new, so that following costs
    what is new only.
    """

    def __init__(self, path: Path):
        self.path = path
        self._offset = 0
        self._rest = b""
        self._file_id = (0, 0)

    def new(self, *kinds: str) -> Iterator[dict[str, object]]:
        """Yields the records written since the last call, oldest first.

        **Arguments:** `kinds`: of the events that are wanted; none: every record. Lines of others
        are not even parsed.
        """
        marks = [f'"event":{space}"{kind}"'.encode() for kind in kinds for space in (" ", "")]
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                identity = (status.st_dev, status.st_ino)
                if identity != self._file_id or status.st_size < self._offset:
                    self._file_id, self._offset, self._rest = identity, 0, b""
                file.seek(self._offset)
                while block := file.read(BLOCK):
                    self._offset += len(block)
                    *lines, self._rest = (self._rest + block).split(b"\n")
                    for line in lines:
                        if marks and not any(mark in line for mark in marks):
                            continue
                        record = parse(line)
                        if record is not None and (not kinds or record.get("event") in kinds):
                            yield record
        except FileNotFoundError:
            return


def parse(line: bytes) -> dict[str, object] | None:
    """Returns the record of one line; None where it is torn or no record."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def read(path: Path, *kinds: str) -> Iterator[dict[str, object]]:
    """Yields every record of a file, or the events of these kinds, oldest first."""
    return Tail(path).new(*kinds)


_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "unit": {"stage": str, "unit": str, "name": str, "status": str},
    "stage_start": {"stage": str, "units": int, "reused": int},
    "broken": {"stage": str, "unit": str},
    "stage_end": {"stage": str, "seconds": (int, float)},
    "engine": {"where": str},
    "unit_start": {"stage": str, "unit": str, "name": str},
    "finished": {"failed": int},
}


def is_whole(event: Mapping[str, object]) -> TypeGuard[Event]:
    """Whether an event has the fields of its kind."""
    kind = event.get("event")
    if not isinstance(kind, str) or not isinstance(event.get("time"), int | float):
        return False
    return all(isinstance(event.get(name), types) for name, types in _FIELDS.get(kind, {}).items())
