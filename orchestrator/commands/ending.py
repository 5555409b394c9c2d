"""How a command ends: streams that take every character, and one line for an error that nobody
foresaw."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import time
import traceback

from ..base.errors import one_line
from ..base.text import redact


def print_json(document: object) -> None:
    """Prints one JSON document on standard output."""
    print(json.dumps(document, indent=1, allow_nan=False))


def safe_streams() -> None:
    """Makes standard output and error take every character, also where they are closed or of
    another encoding.

    What an encoding cannot express becomes `?`: a run that succeeded must not fail at its last
    line.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors="replace")


def unforeseen(command: str, error: BaseException) -> str:
    """Returns the one line for an error that no code of ours expected, and puts its traceback into
    a file that it names."""
    said = one_line(error)
    text = redact("".join(traceback.format_exception(error)))
    try:
        handle, path = tempfile.mkstemp(
            prefix=f"orchestrator-{command}-{time.strftime('%Y%m%d-%H%M%S')}-", suffix=".txt"
        )
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        where = f"traceback: {path}"
    except OSError:
        where = "its traceback could not be written; set ORCHESTRATOR_TRACEBACK=1 to see it"
    return f"orchestrator {command}: {redact(said)[:400]} ({where})"
