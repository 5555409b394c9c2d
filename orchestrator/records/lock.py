"""The lock of an output folder, and a heartbeat for file systems on which locks do not work.

`flock` is certain between two processes of one machine. The kernel releases it however a process
ends. On a file system that machines share it may do nothing. So the driver also counts up in
`alive.json`. We trust no clock of another machine: a count that rises while we look is alive, one
that stays is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import EnvironmentFault
from ..base.processes import boot

GLANCE_SECONDS = 1.0  # `status` holds the lock for a moment to look; that is no run
BEAT_SECONDS = 3.0
LOOK_SECONDS = 2.5 * BEAT_SECONDS  # a count that stays this long has stopped
HEARTBEAT = "alive.json"
LOCK = ".lock"


@dataclass(frozen=True)
class Heartbeat:
    """The last heartbeat of a driver."""

    host: str
    machine: str
    pid: int
    count: int
    time: float
    run: str

    @property
    def elsewhere(self) -> bool:
        """Whether it came from another machine, where our locks and process ids mean nothing."""
        return self.machine != boot()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def read_heartbeat(folder: Path) -> Heartbeat | None:
    """Returns the last heartbeat in `folder`; None where there is none that can be read."""
    try:
        return Heartbeat(**json.loads((folder / HEARTBEAT).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def is_at_work(folder: Path) -> bool:
    """Whether a run uses the folder now. Looks at another machine's heartbeat for some seconds."""
    return is_locked(folder) or is_at_work_elsewhere(folder)


def is_at_work_elsewhere(folder: Path) -> bool:
    """Whether a driver on another machine uses the folder, by its heartbeat."""
    beat = read_heartbeat(folder)
    if beat is None or not beat.elsewhere:
        return False
    deadline = time.monotonic() + LOOK_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.25)
        now = read_heartbeat(folder)
        if now is None:
            return False
        if (now.run, now.count) != (beat.run, beat.count):
            return True
    return False


def is_locked(folder: Path) -> bool:
    """Whether a process of this machine holds the lock."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR)
    except PermissionError:
        handle = _open_to_read(folder / LOCK)
    except OSError:
        return False
    if handle < 0:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


def _open_to_read(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:
        return -1


class FolderLock:
    """The lock of an output folder, with a thread that writes the heartbeat."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._handle: int | None = None
        self._run = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Locks the folder; raises `EnvironmentFault` where another run uses it."""
        handle = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        until = time.monotonic() + GLANCE_SECONDS
        while not (taken := _try_lock(handle)) and time.monotonic() < until:
            time.sleep(0.05)
        if not taken:
            owner = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            raise self._taken(owner or "unknown process")
        # The lock is ours, but a driver on another machine may not have seen it.
        if is_at_work_elsewhere(self.folder):
            os.close(handle)
            raise self._taken(str(read_heartbeat(self.folder) or "unknown process"))
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        self._handle = handle
        self._stop.clear()
        self._beat(0)
        self._thread = threading.Thread(target=self._keep, daemon=True, name="heartbeat")
        self._thread.start()

    def _taken(self, owner: str) -> EnvironmentFault:
        return EnvironmentFault(
            f"output folder {self.folder}: another run is at work on it ({owner}); "
            f"follow it with `orchestrator watch {self.folder}`"
        )

    def _keep(self) -> None:
        count = 0
        while not self._stop.wait(BEAT_SECONDS):
            count += 1
            with contextlib.suppress(OSError):  # a disk may be full for a while
                self._beat(count)

    def _beat(self, count: int) -> None:
        beat = {
            "host": socket.gethostname(),
            "machine": boot(),
            "pid": os.getpid(),
            "count": count,
            "time": round(time.time(), 3),
            "run": self._run,
        }
        temporary = self.folder / f".{HEARTBEAT}.{self._run[:8]}"
        temporary.write_text(json.dumps(beat))
        os.replace(temporary, self.folder / HEARTBEAT)

    def release(self) -> None:
        """Unlocks the folder and removes the heartbeat."""
        if self._handle is None:
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2)
        (self.folder / HEARTBEAT).unlink(missing_ok=True)
        os.close(self._handle)
        self._handle = None
