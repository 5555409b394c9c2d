"""Counts, from outside, how often each unit is executed: every execution begins with a folder of its own in the store's `tmp/`."""

from __future__ import annotations

import ctypes
import os
import re
import select
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

IN_MOVED_FROM, IN_CREATE, IN_DELETE = 0x40, 0x100, 0x200
_HEADER = struct.Struct("iIII")
_ATTEMPT = re.compile(r"^(?P<key>[0-9a-f]{16})-[0-9a-f]{32}$")


@dataclass
class Attempts:
    """What was seen of one key (its first 16 digits): executions begun, committed, and given up without a commit.

    `spans` are the executions that were given up, each as the moments at which it began and ended.
    """

    begun: list[float] = field(default_factory=list)
    committed: list[float] = field(default_factory=list)
    dropped: list[float] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)

    def alone(self, span: tuple[float, float]) -> bool:
        """Whether no other execution of the key was committed before or begun during `span`."""
        begin, end = span
        return not any(stamp <= end for stamp in self.committed) and not any(begin < s <= end for s in self.begun)


class AttemptWatch:
    """Follows a local store's `tmp/` by inotify. A folder moved away is a commit, one deleted a lost race or a failure,
    one that stays an execution that was killed. Nothing of the code under test takes part in the counting.
    """

    def __init__(self, store: Path):
        folder = store / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init()
        if libc.inotify_add_watch(self._descriptor, os.fsencode(folder), IN_MOVED_FROM | IN_CREATE | IN_DELETE) < 0:
            raise OSError(ctypes.get_errno(), f"{folder}: cannot be watched")
        self.attempts: dict[str, Attempts] = {}
        self._open: dict[str, float] = {}
        self._last = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while True:
            ready, _, _ = select.select([self._descriptor], [], [], 0.1)
            if ready:
                self._take(os.read(self._descriptor, 1 << 16))
            elif self._stop.is_set():
                os.close(self._descriptor)
                return

    def _take(self, buffer: bytes) -> None:
        # Events come in order, but several may be read at once, late, on a busy machine: each is a
        # little later than the one before. Else a folder made after another was deleted would seem
        # to be made while that was there.
        now, offset = max(time.monotonic(), self._last), 0
        while offset < len(buffer):
            now = self._last = now + 1e-6
            _, mask, _, length = _HEADER.unpack_from(buffer, offset)
            offset += _HEADER.size
            name = buffer[offset : offset + length].rstrip(b"\0").decode()
            offset += length
            match = _ATTEMPT.match(name)
            if match is None:
                continue
            seen = self.attempts.setdefault(match["key"], Attempts())
            if mask & IN_CREATE:
                seen.begun.append(now)
                self._open[name] = now
            elif mask & IN_MOVED_FROM:
                seen.committed.append(now)
            elif mask & IN_DELETE:
                seen.dropped.append(now)
                seen.spans.append((self._open.get(name, now), now))

    def close(self) -> None:
        """Takes in what has happened so far and ends."""
        self._stop.set()
        self._thread.join()

    def begun(self) -> Counter[str]:
        """Returns how many executions of each key have begun."""
        return Counter({key: len(seen.begun) for key, seen in self.attempts.items()})
