"""The orphan reaper: ends the processes that a local Ray leaves behind when its driver is killed.

Ray's processes end with the driver. Its agents then try for a minute or more to reach the dead
head. The reaper is a small process beside the local Ray. It waits on a pipe whose other end only
the driver holds. However the driver ends, the pipe closes. The reaper then kills what is left of
this Ray.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "ORCHESTRATOR_SESSION"  # in the environment of a local Ray's processes: its folder
GRACE_SECONDS = 3.0
QUIET_LOOKS = 5  # a second apart, in which nothing was left


class OrphanReaper:
    """Starts the reaper process. It begins when this object is closed or the driver dies."""

    def __init__(self, folder: Path):
        """**Arguments:** `folder`: of the local Ray's files. Its processes carry it as `MARK` in
        their environment.
        """
        environment = {name: value for name, value in os.environ.items() if name != MARK}
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", __file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C at the terminal is for the driver alone
        )

    def close(self) -> None:
        """Tells the reaper to look for what is left; does not wait for it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
            self._process.stdin = None
        self._process.returncode = 0  # we never wait for it, so Python need not warn


def marked(folder: str) -> list[int]:
    """Returns the process ids of the Ray in `folder`: those with its mark, or with a Ray title and
    a file open there.

    Ray's agents set a process title. That overwrites the start of the environment that the kernel
    shows, mark and all. Their log files stay open.
    """
    wanted = f"{MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # Somebody's `tail -f` has no such title.
            titled = (entry / "cmdline").read_bytes().startswith(b"ray::")
            if wanted in (entry / "environ").read_bytes().split(b"\0") or (
                titled and _holds_open(entry / "fd", folder)
            ):
                found.append(int(entry.name))
    return found


def _holds_open(descriptors: Path, folder: str) -> bool:
    for descriptor in descriptors.iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.readlink(descriptor).startswith(f"{folder}/"):
                return True
    return False


def main() -> None:
    """Waits for the driver's end, then kills what is left and removes the folder."""
    sys.stdin.buffer.read()
    time.sleep(GRACE_SECONDS)
    quiet = 0
    while quiet < QUIET_LOOKS:  # a Ray that was still starting may have started more
        left = marked(sys.argv[1])
        quiet = 0 if left else quiet + 1
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(1.0)
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
