"""A full disk: output folder and store on a small file system of their own."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .checks import check_all, check_processes
from .kills import finish, last_line
from .lab import Lab
from .scenario import Report

MIB = 2**20
SIZE = 24 * MIB


def can_mount() -> bool:
    """Whether this user may mount a tmpfs."""
    return os.geteuid() == 0


@contextlib.contextmanager
def small_disk(folder: Path, size: int = SIZE) -> Iterator[Path]:
    """Mounts a tmpfs of `size` bytes at `folder`, and takes it away again."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(lab: Lab, generator: random.Random, report: Report, times: int = 4) -> None:
    """The disk runs full at several points of one run: exit code 3 with one clear line, nothing lost, and it goes on with space."""
    if not can_mount():
        report.skipped = "mounting a tmpfs needs root"
        return
    needed = _bytes(lab.clean.place.folder)
    with small_disk(lab.root / "disk") as disk:
        place = lab.place("full", folder=disk / "out")
        ballast = disk / "ballast"
        for part in range(times):
            share = (part + generator.random()) / times
            free = max(64 * 1024, int(share * needed) - _bytes(place.folder))
            _fill(ballast, disk, free)
            code = place.run()
            ballast.unlink()
            report.add(check_processes(lab))
            if code == 0:
                report.notes.append(f"{share:.0%} of the space was enough for what was left")
                break
            report.faults += 1
            text = place.invocations[-1].errors()
            report.facts[f"full at {share:.0%}, {place.phase()}"] = last_line(place)
            if code != 3 or "Traceback" in text:
                report.add([f"full at {share:.0%}: exit code {code}: {last_line(place)}"])
            if "space" not in last_line(place).lower():
                report.add([f"full at {share:.0%}: the last line does not say so: {last_line(place)}"])
        finish(place, report)
        report.add(check_all(place, restarts=report.faults, dropped=2 * report.faults))
        report.measure(place)
        place.watch.close()


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0


def _fill(ballast: Path, disk: Path, free: int) -> None:
    """Leaves `free` bytes on the disk."""
    state = os.statvfs(disk)
    with ballast.open("wb") as file:
        file.write(b"\0" * max(0, state.f_bavail * state.f_frsize - free))
