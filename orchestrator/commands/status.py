"""`orchestrator status`: what is done, running, failed and left."""

from __future__ import annotations

import argparse
from typing import Any

from . import common


def arguments(parser: argparse.ArgumentParser) -> None:
    common.folder_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(args: argparse.Namespace) -> int:
    from ..cli import print_json

    state = read_state(common.open_folder(args.folder))
    if args.json:
        print_json(state)
    else:
        print(render(state))
    return 0


def read_state(folder: Any) -> dict[str, Any]:
    """Returns the state of the experiment in `folder`, from its log of events alone: cheap, and safe beside a run at work."""
    stages: dict[str, dict[str, Any]] = {}
    failures: dict[str, dict[str, str]] = {}
    state = "interrupted"
    last = 0.0
    for event in folder.events():
        last = float(event.get("time", last))
        kind = event.get("event")
        if kind == "start":
            stages, state = {}, "interrupted"
        elif kind == "stage_start":
            stages[event["stage"]] = {
                "to_do": event["units"],
                "stored": event["reused"],
                "done": 0,
                "failed": 0,
                "since": last,
                "seconds": None,
            }
        elif kind == "unit":
            counts = stages.setdefault(
                event["stage"], {"to_do": 0, "stored": 0, "done": 0, "failed": 0, "since": last, "seconds": None}
            )
            counts["failed" if event["status"] == "failed" else "done"] += 1
            if event["status"] == "failed":
                failures[event["unit"]] = {"name": event["name"], "error": event.get("error", "")}
            else:
                failures.pop(event["unit"], None)
        elif kind == "stage_end" and event["stage"] in stages:
            stages[event["stage"]]["seconds"] = event["seconds"]
        elif kind == "finished":
            state = "failed units" if event["failed"] else "finished"
    if folder.is_locked():
        state = "running"
    return {"folder": str(folder.path), "state": state, "stages": stages, "failures": failures, "last_event": last}


def render(state: dict[str, Any]) -> str:
    """Returns the state as text."""
    import time

    from ..plan import STAGE_TITLES
    from ..progress import duration

    lines = [f"{state['folder']}: {state['state']}"]
    for stage, counts in state["stages"].items():
        finished = counts["done"] + counts["failed"]
        left = max(0, counts["to_do"] - finished)
        timing = ""
        if counts["seconds"] is not None:
            timing = f"took {duration(counts['seconds'])}"
        elif state["state"] == "running" and finished:
            elapsed = time.time() - counts["since"]
            timing = f"{finished / max(elapsed, 1e-9):.2g} units/s, about {duration(elapsed / finished * left)} left"
        failed = f", {counts['failed']} failed" if counts["failed"] else ""
        stored = f", {counts['stored']} were stored" if counts["stored"] else ""
        lines.append(
            f"  {STAGE_TITLES.get(stage, stage):<18} {counts['done']}/{counts['to_do']} done{failed}{stored}  {timing}".rstrip()
        )
    for key, failure in state["failures"].items():
        lines.append(f"  failed: {failure['name']} [{key[:12]}]: {failure['error']}")
    if state["failures"]:
        lines.append(f"  run them again with: orchestrator retry {state['folder']}")
    elif state["state"] == "interrupted":
        lines.append(f"  resume with: orchestrator retry {state['folder']}")
    return "\n".join(lines)
