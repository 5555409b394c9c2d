"""Files that are torn, flipped in one bit, or emptied: every kind in the store and in the output folder."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from .checks import check_executions, check_processes, check_results, check_tracking
from .kills import finish
from .lab import Lab, Place
from .scenario import Report

MODES = ("truncated", "flipped", "empty")


def damage(path: Path, mode: str, generator: random.Random) -> None:
    """Damages one file in place, its time stamps kept as a failing disk would."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    if mode == "empty":
        content = bytearray()
    elif mode == "truncated":
        content = content[: generator.randrange(1, max(2, len(content)))]
    else:
        whole = bytes(content)
        while _says(content) == _says(whole):  # the last digit of a number may change nothing
            content = bytearray(whole)
            bit = generator.randrange(len(content) * 8)
            content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _says(content: bytes) -> object:
    """Returns what a reader gets from a file's content, where it is JSON; else the content."""
    try:
        return json.loads(content)
    except ValueError:
        return bytes(content)


def copy_of_clean(lab: Lab, name: str) -> Place:
    """Returns a place that holds a copy of the undisturbed run, its store and its MLflow database."""
    clean = lab.clean.place
    place = lab.place(name)
    shutil.copytree(clean.folder, place.folder)
    shutil.copy2(clean.database, place.database)
    # The marker of finished tracking names the database by its path.
    marker = place.folder / "mlflow.json"
    marker.write_text(marker.read_text().replace(str(clean.database), str(place.database)))
    return place


def damage_store(lab: Lab, generator: random.Random, report: Report, modes: tuple[str, ...] = MODES) -> None:
    """In a finished store, one object of each kind has each of its files damaged, and something that is made from it is gone."""
    for mode in modes:
        place = copy_of_clean(lab, f"store-{mode}")
        marks = place.marks()
        struck: list[str] = []
        for kind in sorted({mark["meta"]["kind"] for mark in marks.values()}):
            whole = sorted(key for key, mark in marks.items() if mark["meta"]["kind"] == kind)
            generator.shuffle(whole)
            for number, name in enumerate(("commit.json", *sorted(marks[whole[0]]["files"]))):
                key = whole[number % len(whole)]
                damage(place.store / "objects" / key[:2] / key / name, mode, generator)
                struck.append(key)
                report.faults += 1
        removed: set[str] = set()
        for key in struck:
            made_from = [k for k, m in marks.items() if key in json.dumps(m["meta"].get("spec", {}))]
            left = sorted(set(made_from) - set(struck) - removed)
            if left:
                gone = generator.choice(left)
                shutil.rmtree(place.store / "objects" / gone[:2] / gone)
                removed.add(gone)
        again = {*struck, *removed}
        finish(place, report)
        # What nothing needed to read, a flipped bit may still sit in: the check of the whole store finds it.
        found = _verify(place, report)
        if found["damaged"]:
            finish(place, report)
        if _verify(place, report)["damaged"]:
            report.add([f"{mode}: damaged objects are left after they were found once"])
        report.add(_prefixed(mode, check_results(place)))
        # Who reads a damaged object finds it so while at work: it gives up, has it made again, and begins anew.
        most = len(removed) if mode == "flipped" else 0
        report.add(_prefixed(mode, check_executions(place, restarts=0, repeated=again, dropped=most)))
        report.add(_prefixed(mode, check_tracking(place)))
        report.add(_prefixed(mode, _made_again(place, again)))
        report.add(_prefixed(mode, check_processes(lab)))
        aside = len(list((place.store / "aside").glob("*.json")))
        report.facts[mode] = (
            f"{len(struck)} files damaged in {len(set(struck))} objects, {aside} set aside, {len(removed)} gone besides"
        )
        if aside != len(set(struck)):
            report.add([f"{mode}: {len(set(struck))} objects were damaged and {aside} set aside"])


def _verify(place: Place, report: Report) -> dict[str, Any]:
    command = [sys.executable, "-m", "orchestrator", "store", "verify", str(place.store), "--json"]
    done = subprocess.run(command, env=place.lab.environment(), capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        report.add([f"store verify ended with {done.returncode}: {done.stderr.strip()[-200:]}"])
        return {"damaged": []}
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _made_again(place: Place, expected: set[str]) -> list[str]:
    """Just what was damaged or gone is made again, each once."""
    units = {key[:16] for key in place.lab.clean.keys}
    begun = {key for key, seen in place.watch.attempts.items() if seen.begun}
    more = (begun & units) - {key[:16] for key in expected}
    # An invocation that has work to do tries the store first, once, with a key that no unit has.
    others = begun - units
    twice = [key for key, seen in place.watch.attempts.items() if len(seen.committed) > 1]
    problems = [f"{len(more)} whole objects were made again"] if more else []
    if len(others) > len(place.invocations):
        problems.append(f"{len(others)} objects that no unit has were made by {len(place.invocations)} invocations")
    return problems + ([f"{len(twice)} objects were made again more than once"] if twice else [])


def _prefixed(mode: str, problems: list[str]) -> list[str]:
    return [f"{mode}: {problem}" for problem in problems]


FOLDER_FILES = (
    "results.json",
    "curves.json",
    "events.jsonl",
    "outputs/original.parquet",
    "outputs/unlearned-retrain.parquet",
    "checksums.json",
    "mlflow.json",
    ".lock",
    "recipe.yaml",
    "run.json",
    "report.html",
    "figures/auc.svg",
    "tables/results.csv",
)
# These come back byte by byte; others hold times, counts or identifiers that each writing draws anew.
EXACT = ("curves.json", "outputs/original.parquet", "outputs/unlearned-retrain.parquet", "recipe.yaml", "run.json")
EXACT += ("tables/results.csv", "mlflow.json")


def damage_folder(lab: Lab, generator: random.Random, report: Report, together: bool = False) -> None:
    """In the output folder of a finished run, every kind of file is damaged; the same command mends it without executing anything.

    **Arguments:** `together`: damage all files at once, instead of one for each invocation.
    """
    place = copy_of_clean(lab, "folder")
    finish(place, report)  # what names the folder itself is now right
    wanted = {name: (place.folder / name).read_bytes() for name in FOLDER_FILES}
    groups = [FOLDER_FILES] if together else [(name,) for name in FOLDER_FILES]
    for mode in MODES:
        for names in groups:
            shown = f"{mode} {', '.join(names) if not together else 'files'}"
            damaged = {}
            for name in names:
                damage(place.folder / name, mode, generator)
                damaged[name] = (place.folder / name).read_bytes()
                report.faults += 1
            finish(place, report)
            report.add(_prefixed(shown, check_results(place)))
            if place.document()["environment"]["work"]["units_executed"]:
                report.add([f"{shown}: units were executed"])
            for name in names:
                now = (place.folder / name).read_bytes()
                if now == damaged[name] and name != ".lock":
                    report.add([f"{mode}: {name} stays damaged"])
                if name in EXACT and now != wanted[name]:
                    report.add([f"{mode}: {name} is not what it was"])
    report.add(check_executions(place, restarts=0))
    report.add(check_tracking(place))
