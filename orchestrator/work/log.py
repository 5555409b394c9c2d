"""What a worker says while it executes a unit: warnings and log records, and one line on how it
went, as plain records.

They travel with the outcome to the driver, which writes them to `log.jsonl` with the unit's key,
name, stage and attempt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import ParamSpec, TextIO

from ..base.documents import LogLine
from ..base.processes import worker
from ..plan.units import Outcome

P = ParamSpec("P")

MOST_RECORDS = 200
LONGEST_MESSAGE = 2000
OWN = ("orchestrator", "unlearn", "attack")
SILENT = ("ray", "matplotlib", "filelock")


def _line(level: str, source: str, message: str) -> LogLine:
    return {"time": round(time.time(), 3), "level": level, "logger": source, "message": message, **worker()}


class _Recorder(logging.Handler):
    def __init__(self, records: list[LogLine]):
        super().__init__(logging.INFO)
        self.records = records

    def emit(self, record: logging.LogRecord) -> None:
        top = record.name.partition(".")[0]
        if top in SILENT or (record.levelno < logging.WARNING and top not in OWN):
            return
        self.add(record.levelname.lower(), record.name, record.getMessage())

    def add(self, level: str, source: str, message: str) -> None:
        if len(self.records) < MOST_RECORDS:
            self.records.append(_line(level, source, message[:LONGEST_MESSAGE]))


@contextlib.contextmanager
def recording() -> Iterator[list[LogLine]]:
    """Collects warnings and log records of this process while the block runs."""
    records: list[LogLine] = []
    recorder = _Recorder(records)
    root = logging.getLogger()
    shown = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        recorder.add("warning", category.__name__, f"{message} ({os.path.basename(filename)}:{lineno})")
        shown(message, category, filename, lineno, file, line)

    root.addHandler(recorder)
    warnings.showwarning = show
    try:
        yield records
    finally:
        warnings.showwarning = shown
        root.removeHandler(recorder)


def recorded(execute: Callable[P, Outcome]) -> Callable[P, Outcome]:
    """Returns `execute` with what was said meanwhile, and a last line on how it went, in its
    outcome."""

    @functools.wraps(execute)
    def recording_execute(*args: P.args, **options: P.kwargs) -> Outcome:
        with recording() as records:
            outcome = execute(*args, **options)
        level, how = ("error", outcome.error) if outcome.failed else ("info", outcome.status)
        last = _line(level, "orchestrator.work.execute", f"{how} in {outcome.seconds:.2f} s")
        return dataclasses.replace(outcome, log=[*records, last])

    return recording_execute
