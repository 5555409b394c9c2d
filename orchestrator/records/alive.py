"""Whether somebody is at work on an output folder: a lock where locks work, a heartbeat where they
do not.

`flock` tells two processes of one machine apart for certain, and is given back by the kernel
however a process ends. On a file system shared between machines it may say nothing at all, so the
driver also counts a beat up in `alive.json`. No clock of another machine is trusted: a beat that
rises while one looks is alive, one that stays is not.
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

GLANCE_SECONDS = 1.0  # `status` takes the lock for a moment to look: that is no run
BEAT_SECONDS = 3.0
LOOK_SECONDS = 2.5 * BEAT_SECONDS  # as long as one looks at a beat before it counts as stopped
HEARTBEAT = "alive.json"
LOCK = ".lock"


@dataclass(frozen=True)
class Beat:
    """What a driver last said of itself."""

    host: str
    machine: str
    pid: int
    count: int
    time: float
    run: str

    @property
    def elsewhere(self) -> bool:
        """Whether it came from another machine, where this one's locks and process numbers mean
        nothing."""
        return self.machine != boot()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def read_beat(folder: Path) -> Beat | None:
    """Returns the last beat in `folder`; None where no driver is at work or the file cannot be
    read."""
    try:
        return Beat(**json.loads((folder / HEARTBEAT).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def is_at_work(folder: Path) -> bool:
    """Whether a run is at work on the folder now; looks for some seconds at the beat of a driver
    elsewhere."""
    return is_locked(folder) or is_at_work_elsewhere(folder)


def is_at_work_elsewhere(folder: Path) -> bool:
    """Whether a driver of another machine is at work on the folder, as its beat tells."""
    beat = read_beat(folder)
    if beat is None or not beat.elsewhere:
        return False
    deadline = time.monotonic() + LOOK_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.25)
        now = read_beat(folder)
        if now is None:
            return False
        if (now.run, now.count) != (beat.run, beat.count):
            return True
    return False


def is_locked(folder: Path) -> bool:
    """Whether a process of this machine holds the folder."""
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


class Presence:
    """Holds an output folder for this process: the lock, and a thread that counts the beat up."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._handle: int | None = None
        self._run = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Takes the folder; raises `EnvironmentFault` where another run is at work on it."""
        handle = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        until = time.monotonic() + GLANCE_SECONDS
        while not (taken := _try_lock(handle)) and time.monotonic() < until:
            time.sleep(0.05)
        if not taken:
            owner = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            raise self._taken(owner or "unknown process")
        # The lock is ours, but another machine's driver may not have seen it.
        if is_at_work_elsewhere(self.folder):
            os.close(handle)
            raise self._taken(str(read_beat(self.folder) or "unknown process"))
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
            # a full disk for a while is no reason to stop working
            with contextlib.suppress(OSError):
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

    def give_back(self) -> None:
        """Gives the folder back."""
        if self._handle is None:
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2)
        (self.folder / HEARTBEAT).unlink(missing_ok=True)
        os.close(self._handle)
        self._handle = None
