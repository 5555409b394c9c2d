"""Processes that are killed, interrupted or frozen."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from typing import Protocol

import psutil

from .checks import check_all, check_processes, check_results, cut_off
from .lab import LIMIT, STAGES, Clean, Lab, Place, draws
from .scenario import Report

PER_EXPERIMENT = 4


class Places(Protocol):
    """What gives places: a lab, or one with its stores elsewhere."""

    @property
    def clean(self) -> Clean: ...

    def place(self, name: str) -> Place: ...

    def say(self, text: str) -> None: ...


def kill_driver(lab: Places, generator: random.Random, report: Report, kills: int = 20) -> None:
    """SIGKILL of the driver at random moments of the run, each followed by the same command.

    The moments are spread over the whole run: one in each quarter of it for every experiment.
    """
    struck: Counter[str] = Counter()
    # A run may end before its last kill: another experiment takes the kills that are left.
    for number in range(2 * kills // PER_EXPERIMENT):
        count = min(PER_EXPERIMENT, kills - report.faults)
        if count == 0:
            break
        place = lab.place(f"driver{number}")
        landed = 0
        for share in draws(generator, count):
            units, delay = lab.clean.moment(share)
            place.start()
            place.until(lambda: place.units_done() >= units)  # noqa: B023
            time.sleep(delay)
            if not place.invocations[-1].running:
                break
            struck[place.phase()] += 1
            place.kill_driver()
            landed += 1
            report.add(check_processes(place.lab))
        report.faults += landed
        finish(place, report)
        report.add(check_all(place, restarts=landed))
        report.measure(place)
        lab.say(f"  {report.faults} of {kills} kills, {cut_off(place)} units cut off in this experiment")
    if report.faults < kills:
        report.add([f"only {report.faults} of {kills} kills met a run at work"])
    report.facts["kills by stage"] = dict(struck)


def finish(place: Place, report: Report) -> None:
    """Runs the same command until it ends well, three times at most."""
    for _ in range(3):
        code = place.run()
        if code == 0:
            return
        report.add([f"the command ended with {code}: {last_line(place)}"])


def last_line(place: Place) -> str:
    """Returns what the last command said last, without the folder that this machine chose."""
    lines = place.invocations[-1].errors().replace(f"{place.lab.root}/", "").strip().splitlines()
    return lines[-1][:200] if lines else "(nothing said)"


def kill_workers(lab: Places, generator: random.Random, report: Report, kills: int = 6) -> None:
    """SIGKILL of random worker processes while the driver lives: the run itself ends well, with one invocation."""
    struck: Counter[str] = Counter()
    for number in range(kills):
        if report.faults < kills:
            _kill_workers_of_one(lab.place(f"workers{number}"), generator, report, kills - report.faults, struck)
    report.facts["killed"] = dict(struck)


def _kill_workers_of_one(
    place: Place, generator: random.Random, report: Report, kills: int, struck: Counter[str]
) -> None:
    """Kills workers of one experiment, as many as it lasts for."""
    lab, before = place.lab, report.faults
    place.start()
    for share in draws(generator, kills):
        units, delay = lab.clean.moment(share)
        place.until(lambda: place.units_done() >= units)  # noqa: B023
        time.sleep(delay)
        place.until(lambda: bool(place.workers()))
        victims = place.workers()
        if not victims:
            break
        victim = generator.choice(sorted(victims, key=lambda p: p.pid))
        try:
            name = " ".join(victim.cmdline()).split("::")[1].split("(")[0].split(".")[0].strip()
            victim.kill()
        except psutil.Error:
            continue
        struck[f"{place.phase()}: {name}"] += 1
        report.faults += 1
    code = place.invocations[-1].wait(LIMIT)
    if code != 0:
        report.add([f"the command ended with {code}: {last_line(place)}"])
        finish(place, report)
    landed = report.faults - before
    report.add(check_all(place, restarts=landed))
    report.measure(place, lost_workers=landed)


def interrupt(lab: Lab, generator: random.Random, report: Report) -> None:
    """SIGTERM in each stage, one after another in one experiment: 130 within 10 seconds, nothing left, the same command goes on."""
    place = lab.place("sigterm")
    slowest = 0.0
    for stage in (*STAGES, "report"):
        place.start()
        place.until(lambda: stage in place.begun())  # noqa: B023
        begun = sum(event.get("event") == "unit" for event in place.events())
        if stage not in ("score", "report"):  # these two take a second together
            place.until(lambda: sum(e.get("event") == "unit" for e in place.events()) > begun)  # noqa: B023
            time.sleep(generator.uniform(0.0, 0.5))
        if not place.invocations[-1].running:
            report.notes.append(f"the {stage} stage was over before the signal")
            continue
        started = time.monotonic()
        code = place.kill_driver(signal.SIGTERM)
        slowest = max(slowest, time.monotonic() - started)
        report.faults += 1
        if code != 130:
            report.add([f"SIGTERM in the {stage} stage: exit code {code} instead of 130: {last_line(place)}"])
        if "Traceback" in place.invocations[-1].errors():
            report.add([f"SIGTERM in the {stage} stage: a traceback was printed"])
        report.add(check_processes(lab))
    if slowest > 10:
        report.add([f"SIGTERM took {slowest:.1f} s"])
    finish(place, report)
    report.add(check_all(place, restarts=report.faults, interrupted=True))
    report.measure(place, interrupted=True)
    report.facts["slowest end (s)"] = round(slowest, 1)


def freeze(lab: Lab, generator: random.Random, report: Report, seconds: float = 15.0) -> None:
    """SIGSTOP of the driver, then SIGCONT: as on a machine that sleeps or swaps. The run goes on by itself."""
    place = lab.place("frozen")
    units, delay = lab.clean.moment(generator.uniform(0.3, 0.8))
    place.start()
    place.until(lambda: place.units_done() >= units)
    time.sleep(delay)
    place.invocations[-1].send(signal.SIGSTOP)
    time.sleep(seconds)
    place.invocations[-1].send(signal.SIGCONT)
    report.faults += 1
    code = place.invocations[-1].wait(LIMIT)
    if code != 0:
        report.add([f"the command ended with {code}: {last_line(place)}"])
    report.add(check_results(place) if code else check_all(place, restarts=0))
    report.measure(place, idle=seconds)
