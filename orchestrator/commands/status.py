"""`orchestrator status`: what is done, running, failed and left; and all that is recorded of single
units."""

from __future__ import annotations

import argparse
import time

from ..base.errors import UserError, did_you_mean
from ..base.text import printable
from ..plan.stages import STAGE_TITLES
from ..records.folder import OutputFolder, open_folder
from ..records.progress import duration
from ..records.state import ExperimentState, RunningUnit, StateDocument, UnitHistory, unit_history
from .ending import print_json

MOST_RUNNING = 12


def main(args: argparse.Namespace) -> int:
    folder = open_folder(args.folder)
    if args.units:
        return _units(folder, args.units, args.json)
    state = ExperimentState(folder.path)
    state.update()
    if args.json:
        print_json(state.document())
    else:
        print(render(state.document()))
    return 0


def render(state: StateDocument) -> str:
    """Returns the state as text."""
    by = f" ({state['driver']})" if state["state"] == "running" and state["driver"] else ""
    lines = [f"{state['folder']}: {state['state']}{by}"]
    if state["state"] == "running" and state["where"]:
        lines.append(f"  {state['where']}")
    for stage, counts in state["stages"].items():
        timing = ""
        if counts["seconds"] is not None:
            timing = f"took {duration(counts['seconds'])}"
        elif counts["seconds_left"] is not None:
            timing = f"{rate_text(counts['units_per_second'])}, about {duration(counts['seconds_left'])} left"
        failed = f", {counts['failed']} failed" if counts["failed"] else ""
        stored = f", {counts['stored']} were stored" if counts["stored"] else ""
        lines.append(
            f"  {STAGE_TITLES.get(stage, stage):<18} {counts['done']}/{counts['to_do']} done{failed}{stored}  {timing}".rstrip()
        )
    running = list(state["running"].values())
    for unit in running[:MOST_RUNNING]:
        where = f" on {unit['where']}" if unit["where"] else ""
        lines.append(
            f"  running: {printable(unit['name'])}{where}, for {duration(unit.get('for', 0.0))}{attempt_text(unit)}"
        )
    if len(running) > MOST_RUNNING:
        lines.append(f"  running: {len(running) - MOST_RUNNING} more")
    for key, failure in state["failures"].items():
        lines.append(f"  failed: {printable(failure['name'])} [{key[:12]}]: {printable(failure['error'])}")
    if state["failures"]:
        first = next(iter(state["failures"]))
        lines.append(f"  see why: orchestrator status {state['folder']} {first[:12]}")
        lines.append(f"  run them again with: {printable(state['again'])}")
    elif state["state"] in ("interrupted", "stopped"):
        lines.append(f"  resume with: {printable(state['again'])}")
    return "\n".join(lines)


def rate_text(rate: float | None) -> str:
    """Returns a rate as a person would say it: units a second, a minute or an hour."""
    if rate is None:
        return "no unit yet"
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if rate * seconds >= 1 or unit == "h":
            return f"{rate * seconds:.3g} units/{unit}"
    raise AssertionError


def attempt_text(unit: RunningUnit) -> str:
    """Returns which attempt it is, empty for the first."""
    attempt = unit.get("attempt") or 1
    return f" (attempt {attempt})" if attempt > 1 else ""


def _units(folder: OutputFolder, wanted: list[str], as_json: bool) -> int:
    found = []
    for text in wanted:
        units = unit_history(folder.path, text)
        if not units:
            names = {event["name"] for event in folder.events("unit", "unit_start")}
            raise UserError(f"UNIT: {text!r}: no such unit was run here{did_you_mean(text, names)}")
        found += units
    if as_json:
        print_json({"units": found})
    else:
        print("\n\n".join(render_unit(unit) for unit in found))
    return 0


def render_unit(unit: UnitHistory) -> str:
    """Returns all that is recorded of a unit as text."""

    def clock(stamp: object) -> str:
        if not isinstance(stamp, int | float) or not stamp:
            return "?"
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp))

    lines = [f"{printable(unit['name'])}  [{unit['unit']}]", f"  {STAGE_TITLES.get(unit['stage'], unit['stage'])}"]
    for attempt in unit["attempts"]:
        where = f" on {attempt['where']}" if attempt.get("where") else ""
        took = f" after {attempt['seconds']:.2f} s" if attempt.get("seconds") else ""
        stamp = attempt.get("ended") or attempt.get("began")
        lines.append(f"  attempt {attempt['attempt']}: {attempt['status']}{took}{where}, {clock(stamp)}")
        if attempt.get("error"):
            lines.append(f"    {printable(attempt['error'])}")
        lines += [f"    {line}" for line in printable(attempt.get("traceback", "")).splitlines()]
    for line in unit["log"]:
        who = f"{line.get('host', '')}:{line.get('pid', '')}"
        lines.append(
            f"  {clock(line.get('time'))} {line.get('level', ''):<7} {who} {printable(str(line.get('message', '')))}"
        )
    return "\n".join(lines)
