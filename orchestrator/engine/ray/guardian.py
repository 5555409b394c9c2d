"""Ends what a local Ray leaves when its driver is killed.

Ray's own processes go with the driver, but its agents then try for a minute or more to tell the
dead head of it. A small process of its own, started beside the local Ray, waits on a pipe whose
other end only the driver holds. However the driver ends, the pipe closes. What still belongs to
this Ray a moment later is ended.
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

# in the environment of every process of a local Ray: the folder of its files
MARK = "ORCHESTRATOR_SESSION"
GRACE_SECONDS = 3.0
QUIET_LOOKS = 5  # a second apart, in which nothing was left


class Guardian:
    """Starts the waiting process; closing, or dying, lets it do its work."""

    def __init__(self, folder: Path):
        """**Arguments:** `folder`: of the local Ray's files; its processes must have it as `MARK`
        in their environment."""
        environment = {name: value for name, value in os.environ.items() if name != MARK}
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", __file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # a Ctrl-C at the terminal is the driver's, not its
        )

    def close(self) -> None:
        """Lets it look whether anything is left; does not wait for that."""
        if self._process.stdin is not None:
            self._process.stdin.close()
            self._process.stdin = None
        self._process.returncode = 0  # nobody waits for it: no warning of a child that still runs


def marked(folder: str) -> list[int]:
    """Returns the processes of the Ray in `folder`: those that carry its mark, or are named as
    Ray's and have a file open there.

    Ray's agents give themselves a title, which overwrites the beginning of what the kernel shows of
    their environment, mark and all. Their logs stay open.
    """
    wanted = f"{MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # somebody's `tail -f` is not
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
    """Waits for the driver's end, then ends what is left and removes the folder."""
    sys.stdin.buffer.read()
    time.sleep(GRACE_SECONDS)
    quiet = 0
    # a Ray that was just starting may have started more since the last look
    while quiet < QUIET_LOOKS:
        left = marked(sys.argv[1])
        quiet = 0 if left else quiet + 1
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(1.0)
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
