"""Clocks that are wrong: each process's own by up to a day, and time stamps of files as well."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from .checks import check_all
from .kills import finish
from .lab import ROOT, Lab
from .scenario import Report

DAY = 86_400
HOOK = Path(__file__).parent / "skewed"


def skew(lab: Lab, generator: random.Random, report: Report) -> None:
    """The first half runs with clocks a day ahead, files then look a day older or newer, the rest with clocks a day behind.

    Worker processes differ from the driver and from each other by up to an hour besides.
    """
    place = lab.place("skew")
    path = f"{HOOK}{os.pathsep}{ROOT}"
    for ahead in (DAY, -DAY):
        units, delay = lab.clean.moment(generator.uniform(0.4, 0.6) if ahead > 0 else generator.uniform(0.7, 0.9))
        place.start(PYTHONPATH=path, CHAOS_SKEW=str(ahead))
        place.until(lambda: place.units_done() >= units)  # noqa: B023
        time.sleep(delay)
        place.kill_driver()
        report.faults += 1
        for file in place.folder.rglob("*"):
            if file.is_file():
                moved = file.stat().st_mtime + generator.choice((-DAY, DAY))
                os.utime(file, (moved, moved))
    seen = [event["time"] - time.time() for event in place.events()]
    report.facts["clock of the driver (h)"] = [round(min(seen) / 3600), round(max(seen) / 3600)]
    if not min(seen) < -DAY / 2 < DAY / 2 < max(seen):
        report.add(["the clocks were not shifted"])
    finish(place, report)
    report.add(check_all(place, restarts=report.faults))
    report.measure(place)
