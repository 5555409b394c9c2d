"""Two commands at the same time: on one folder, and on two that share a store."""

from __future__ import annotations

import copy
import random
import time

from .checks import check_all, check_executions, check_processes, tracked
from .kills import last_line
from .lab import LIMIT, Lab, Place, untimed
from .scenario import Report
from .watch import AttemptWatch


def second_submission(lab: Lab, generator: random.Random, report: Report) -> None:
    """The same command while the first is at work: refused with one line and exit code 3, the first undisturbed."""
    place = lab.place("twice")
    units, delay = lab.clean.moment(generator.uniform(0.1, 0.7))
    first = place.start()
    place.until(lambda: place.units_done() >= units)
    time.sleep(delay)
    for _ in range(2):
        second = place.start()
        code = second.wait(60)
        place.invocations.remove(second)
        text = second.errors()
        report.faults += 1
        if code != 3 or f"process {first.process.pid}" not in text or "Traceback" in text:
            report.add([f"the second command ended with {code}: {text.strip()[-200:]}"])
    if first.wait(LIMIT) != 0:
        report.add([f"the first command failed: {last_line(place)}"])
    report.add(check_all(place, restarts=0))
    report.measure(place)


def race(lab: Lab, generator: random.Random, report: Report) -> None:
    """Two experiments with the same shadow models and one shared store, at the same time: each model is trained once."""
    del generator  # both start at once
    root = lab.root / "shared"
    store, database = root / "store", root / "mlflow.db"
    root.mkdir()
    watch = AttemptWatch(store)
    places = []
    for index, methods in enumerate((lab.recipe["methods"][:1], lab.recipe["methods"])):
        recipe = copy.deepcopy({**lab.recipe, "name": f"race-{index}", "methods": methods})
        recipe["tracking"] = {"uri": f"sqlite:///{database}"}
        place = lab.place(f"race{index}", recipe, store=store, database=database)
        place.watch = watch  # type: ignore[misc]  # one watch for one store
        places.append(place)
    started = time.monotonic()
    for place in places:
        place.start()
        report.faults += 1
    codes = [place.invocations[0].wait(LIMIT) for place in places]
    report.facts["seconds for both"] = round(time.monotonic() - started, 1)
    for place, code in zip(places, codes, strict=True):
        if code != 0:
            report.add([f"{place.recipe['name']} ended with {code}: {last_line(place)}"])
    kinds = {key[:16]: mark["meta"]["kind"] for key, mark in lab.clean.place.marks().items()}
    # Decoding is each command's own, before it has a plan: the digits twice cost nothing.
    datasets = {key for key, kind in kinds.items() if kind == "dataset"}
    kinds = {key: kind for key, kind in kinds.items() if key not in datasets}
    begun = watch.begun()
    for kind in ("train", "moments", "basis", "unlearn", "outputs", "attack", "score", "distance"):
        of_kind = [key for key, name in kinds.items() if name == kind]
        report.facts[f"{kind} executions / distinct"] = f"{sum(begun[key] for key in of_kind)} / {len(of_kind)}"
    doubled = {kinds[key] for key, count in begun.items() if key in kinds and count > 1}
    if doubled:
        more = sum(count - 1 for key, count in begun.items() if key in kinds and count > 1)
        report.add([f"{more} executions too many, of {', '.join(sorted(doubled))}"])
    if not doubled:
        report.add(check_executions(places[1], restarts=0, expected=kinds))
    report.add(_rows(places, lab))
    report.add(check_processes(lab))
    report.add(_runs(places))


def _rows(places: list[Place], lab: Lab) -> list[str]:
    """Both experiments' rows are those of the undisturbed run, as far as they have them in common."""
    clean = lab.clean.place.document()["rows"]
    problems = []
    for place in places:
        try:
            rows = place.document()["rows"]
        except OSError:
            continue
        for row in rows:
            twin = next(r for r in clean if (r["method"], r["params"]) == (row["method"], row["params"]))
            if untimed([row]) != untimed([twin]):
                problems.append(f"{place.recipe['name']}: {row['method']} differs from the undisturbed run")
    return problems


def _runs(places: list[Place]) -> list[str]:
    """Each experiment has its runs, one a unit, all of them finished."""
    runs = tracked(places[0].database)
    wanted = len(tracked(places[0].lab.clean.place.database))
    left_out = 2 + 1  # the second experiment has one method more: its two models and its row
    problems = [f"{run[1]}: MLflow run {run[2]}" for run in runs if run[2] != "FINISHED"][:3]
    if len(runs) != 2 * wanted - left_out:
        problems.append(f"MLflow has {len(runs)} runs instead of {2 * wanted - left_out}")
    return problems
