"""Which machine this is, and whether a process that was noted is still the same one. No wall clock
is asked: it may be set.
"""

from __future__ import annotations

import functools
import os
import resource
import socket
import sys
import uuid
from pathlib import Path
from typing import TypedDict


def usable_cpus() -> int:
    """Returns how many CPUs this process may use; where the system does not say, how many there
    are."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_mib() -> int:
    """Returns the most memory that this process has held so far, in MiB."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # in bytes on macOS, in KiB on Linux
    return round(found / (2**20 if sys.platform == "darwin" else 2**10))


@functools.cache
def boot() -> str:
    """Returns what this machine is known by until it restarts: containers of one kernel share it,
    as they share locks.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{socket.gethostname()}-{uuid.getnode():x}"


@functools.cache
def process_table() -> str:
    """Returns what tells process tables apart, those of containers of one kernel too: boot and
    process-id namespace.
    """
    try:
        return f"{boot()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{boot()}/{uuid.uuid4().hex}"  # like no other: process ids then say nothing


def process_start(pid: int | str) -> str:
    """Returns when a process started, in the kernel's ticks since boot; empty where that is not
    known or it is no more.
    """
    if not str(pid).isdigit():  # a number from elsewhere may be any text
        return ""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        return ""


def is_running(pid: int | str, started: str) -> bool:
    """Whether the process `pid` that started at `started` is still there: a number may have been
    given to another.
    """
    return bool(started) and process_start(pid) == started


class Speaker(TypedDict):
    """Which process speaks."""

    host: str
    pid: int


def worker() -> Speaker:
    """Returns which process speaks."""
    return {"host": socket.gethostname(), "pid": os.getpid()}
