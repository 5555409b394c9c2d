"""What must hold after every disturbance."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from .lab import Lab, Place, untimed

PATIENCE = 30.0
SLOTS = 2  # units at once
TIDY_SECONDS = 10.0  # Ray kills a worker that it asked to end some seconds before


def check_all(
    place: Place, *, restarts: int, repeated: Iterable[str] = (), dropped: int = 0, interrupted: bool = False
) -> list[str]:
    """Returns what is wrong with a place whose command has just ended well.

    **Arguments:**

    - `restarts`: how many times something at work was ended: each may cost the units that were in flight.
    - `repeated`: keys of objects that were damaged, which may have been made once more.
    - `dropped`: how many executions may have given up by themselves: they found what they read damaged, or the disk full.
    - `interrupted`: it was ended by a signal that it answers: what was in flight cleaned up after itself, and counts as cut off.
    """
    problems = check_results(place)
    problems += check_executions(place, restarts=restarts, repeated=repeated, dropped=dropped, interrupted=interrupted)
    problems += check_tracking(place)
    problems += check_processes(place.lab)
    problems += check_litter(place)
    return problems


def check_results(place: Place) -> list[str]:
    """Rows, curves and objects of the store are those of the undisturbed run."""
    clean = place.lab.clean.place
    problems = []
    if untimed(place.document()["rows"]) != untimed(clean.document()["rows"]):
        problems.append("rows differ from those of the undisturbed run")
    marks = place.marks()
    if set(marks) != set(place.lab.clean.keys):
        problems.append(f"{len(set(marks) ^ set(place.lab.clean.keys))} objects too many or too few in the store")
    for key, mark in clean.marks().items():
        if mark["meta"]["kind"] in ("train", "unlearn") and key in marks and marks[key]["files"] != mark["files"]:
            problems.append(f"the weights of {mark['meta']['name']} differ")
    return problems


def check_executions(
    place: Place,
    *,
    restarts: int,
    repeated: Iterable[str] = (),
    dropped: int = 0,
    interrupted: bool = False,
    expected: Iterable[str] | None = None,
) -> list[str]:
    """Every unit is committed once, none is begun again after that, and few were in flight when something was killed."""
    problems = []
    again = {key[:16] for key in repeated}
    given_up: list[str] = []
    abandoned, attempts = 0, place.watch.attempts
    for key in sorted({key[:16] for key in (place.lab.clean.keys if expected is None else expected)}):
        seen = attempts.get(key)
        if seen is None:
            continue
        allowed = 2 if key in again else 1
        if len(seen.committed) > allowed:
            problems.append(f"{_name(place, key)} was committed {len(seen.committed)} times")
        # Where its owner dies, Ray may end a worker by SIGTERM. The worker then removes what it had begun.
        tidied = sum(seen.alone(span) and _follows(span[1], place.kills) for span in seen.spans)
        wasted = 0 if interrupted else len(seen.dropped) - tidied
        if wasted:
            given_up.append(f"{_name(place, key)} was executed {wasted} times for nothing")
        late = _after(seen.begun, seen.committed)
        if late > allowed - 1 + min(_after(seen.dropped, seen.committed), dropped):
            problems.append(f"{_name(place, key)} was finished and executed again")
        abandoned += len(seen.begun) - len(seen.committed) - wasted
    problems += given_up if len(given_up) > dropped else []
    if abandoned > restarts * SLOTS:
        problems.append(f"{abandoned} executions were cut off by {restarts} kills: more than were in flight")
    done = Counter(e["unit"] for e in place.events() if e.get("event") == "unit" and e.get("status") == "done")
    twice = [unit for unit, count in done.items() if count > 1 and unit[:16] not in again]
    if twice:
        problems.append(f"{len(twice)} units are recorded as done twice")
    failed = [e["name"] for e in place.events() if e.get("event") == "unit" and e.get("status") == "failed"]
    if failed:
        problems.append(f"units failed: {', '.join(failed[:3])}")
    return problems


def _follows(stamp: float, kills: list[float]) -> bool:
    """Whether a moment is one at which a driver that was killed is still being tidied up after."""
    return any(kill <= stamp <= kill + TIDY_SECONDS for kill in kills)


def _after(stamps: list[float], committed: list[float]) -> int:
    """Returns how many stamps are later than the first commit."""
    return sum(stamp > committed[0] for stamp in stamps) if committed else 0


def cut_off(place: Place, interrupted: bool = False) -> int:
    """Returns how many executions were begun and cut off: what the disturbance cost in units.

    **Arguments:** `interrupted`: count those, too, that cleaned up after themselves.
    """
    kept = 0 if interrupted else 1
    return sum(len(a.begun) - len(a.committed) - kept * len(a.dropped) for a in place.watch.attempts.values())


def _name(place: Place, short: str) -> str:
    mark = next((m for k, m in place.lab.clean.place.marks().items() if k.startswith(short)), None)
    return mark["meta"]["name"] if mark else short


def tracked(database: Path) -> list[tuple[str, str, str, int, int]]:
    """Returns the runs of an MLflow database: kind, name, status, how many metric values and parameters they hold."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
        rows = connection.execute(
            "SELECT (SELECT value FROM tags t WHERE t.run_uuid = r.run_uuid AND t.key = 'orchestrator.kind'),"
            " r.name, r.status,"
            " (SELECT count(*) FROM metrics m WHERE m.run_uuid = r.run_uuid),"
            " (SELECT count(*) FROM params p WHERE p.run_uuid = r.run_uuid)"
            " FROM runs r WHERE r.lifecycle_stage = 'active'"
        ).fetchall()
    return sorted((str(kind), str(name), str(status), int(m), int(p)) for kind, name, status, m, p in rows)


def check_tracking(place: Place) -> list[str]:
    """MLflow holds one run for each unit, complete and finished, and no other."""
    found, wanted = tracked(place.database), tracked(place.lab.clean.place.database)
    problems = []
    open_runs = [name for _, name, status, _, _ in found if status != "FINISHED"]
    if open_runs:
        problems.append(f"{len(open_runs)} MLflow runs are not finished, among them {open_runs[0]}")
    names, counts = Counter(run[:2] for run in found), Counter(run[:2] for run in wanted)
    unlike = [run for run in sorted(set(names) | set(counts)) if names[run] != counts[run]]
    problems += [f"MLflow has {names[run]} runs of {run[1]} ({run[0]}) instead of {counts[run]}" for run in unlike]
    # The parent's counts grow with each invocation that ends well; all others' must not.
    if not problems and [r for r in found if r[0] != "experiment"] != [r for r in wanted if r[0] != "experiment"]:
        problems.append("an MLflow run holds more or fewer values than in the undisturbed run")
    return problems


def check_processes(lab: Lab, allowed: Iterable[int] = ()) -> list[str]:
    """No process is left but those in `allowed` and what belongs to them."""
    spared = set(allowed)
    deadline = time.monotonic() + PATIENCE
    while True:
        left = [p for p in lab.marked() if p.pid not in spared]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    names = []
    for process in left:
        with contextlib.suppress(Exception):
            names.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
    return [f"{len(left)} processes are left {PATIENCE:.0f} s later: {names[:3]}"] if left else []


def check_litter(place: Place) -> list[str]:
    """Nothing temporary is left but, in the store, what executions that were killed had begun to write."""
    problems = []
    torn = [str(p.relative_to(place.folder)) for p in place.folder.rglob("*.tmp") if place.store not in p.parents]
    if torn:
        problems.append(f"temporary files are left in the output folder: {torn[:3]}")
    begun = [p for p in (place.store / "tmp").iterdir()]
    if len(begun) > cut_off(place):
        problems.append(f"{len(begun)} folders are left in the store's tmp, {cut_off(place)} executions were cut off")
    for name in ("r", "tmp"):
        # PyTorch keeps an empty folder for its compiler's cache, MLflow's server an empty lock; one for all runs each.
        others = ("torchinductor_", "db_init_lock-")
        left = sorted(p.name for p in (place.lab.root / name).iterdir() if not p.name.startswith(others))
        if left:
            problems.append(f"temporary folders are left: {left[:3]}{' …' if len(left) > 3 else ''}")
    return problems
