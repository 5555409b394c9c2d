"""Temporary folders that the next run removes where their owner was killed before it could."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

OWNER = ".owner"


class ScratchFolder:
    """A temporary folder of this process. A lock on a file inside says that its owner lives; it
    goes with the process.
    """

    def __init__(self, prefix: str, parent: Path):
        """Creates a folder `parent/prefix…`, after removing those of the same prefix whose owners
        are no more.
        """
        sweep(prefix, parent)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            with contextlib.suppress(FileNotFoundError):
                self._lock = os.open(self.path / OWNER, os.O_RDWR | os.O_CREAT, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                if (self.path / OWNER).exists():
                    return
                os.close(self._lock)  # another run swept it between creating and locking

    def close(self) -> None:
        """Removes the folder; once is enough."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def sweep(prefix: str, parent: Path) -> int:
    """Removes this user's folders `parent/prefix…` whose owner is no more; returns how many. Others
    are left alone.
    """
    swept = 0
    for folder in parent.glob(f"{prefix}*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / OWNER, os.O_RDWR)
        except OSError:
            continue  # not one of ours, or gone
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            swept += 1
        except OSError:
            continue  # its owner lives
        finally:
            os.close(lock)
    return swept


def short_folder() -> Path:
    """Returns where Ray's own files go: `RAY_TMPDIR` where the user set it, else a path short
    enough for Unix sockets.
    """
    named = os.environ.get("RAY_TMPDIR")
    if named:
        return Path(named)
    return Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())


def sweep_all() -> None:
    """Removes the files of Ray and Tune that killed runs of this machine have left."""
    for parent in {short_folder(), Path(tempfile.gettempdir())}:
        sweep("orc-", parent)
