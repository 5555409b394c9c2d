"""Standard error while Ray runs: without the log lines of Ray's C++ part."""

from __future__ import annotations

import os
import re
import sys
import threading
from typing import IO


class BackendFilter:
    """Keeps Ray's C++ log lines, which no Python logger reaches, off the user's standard error.

    Python's own writes go straight to a copy of the descriptor. We look only at what libraries
    write to descriptor 2, and pass on everything that is not such a log line.
    """

    _LOG_LINE = re.compile(rb"^\[\d{4}-\d\d-\d\d [\d:,]+ [A-Z] \d+ \d+\] .*\.cc:\d+: ")

    def __init__(self) -> None:
        self._python_stderr = sys.stderr
        self._original = os.dup(2)
        reader, writer = os.pipe()
        sys.stderr.flush()
        os.dup2(writer, 2)
        os.close(writer)
        self._direct: IO[str] | None = None
        if sys.stderr is sys.__stderr__:
            # Never closed, nor is the copy: a logger that was set up meanwhile may write to it
            # until the end.
            self._direct = os.fdopen(
                self._original, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
            )
            sys.stderr = self._direct
        self._thread = threading.Thread(target=self._forward, args=(reader,), daemon=True, name="stderr")
        self._thread.start()

    def _forward(self, reader: int) -> None:
        with os.fdopen(reader, "rb") as lines:
            for line in lines:
                if not self._LOG_LINE.match(line):
                    os.write(self._original, line)

    def close(self) -> None:
        """Puts the descriptor back."""
        os.dup2(self._original, 2)  # closes the pipe's last writer here, which ends the thread
        if self._direct is not None and sys.stderr is self._direct:
            sys.stderr = self._python_stderr
        self._thread.join(timeout=1)
