"""What share of a run's wall time is not work: unit seconds against wall time × slots, from the log of events of a run.

    python benchmarks/orchestration/share.py runs/demo

For each stage its share of the wall time and the seconds that units worked, on their own clocks. Stages overlap; their
shares of the wall time add up to the time from the first worker to the last unit. Takes the last invocation that
finished. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from orchestrator.records.events import Event
from orchestrator.records.folder import OutputFolder

TRAINING = ("train", "unlearn")


def invocations(events: list[Event]) -> list[list[Event]]:
    """Returns the events of each invocation that ran to its end."""
    found: list[list[Event]] = []
    for event in events:
        if event["event"] == "start":
            found.append([])
        if found:
            found[-1].append(event)
    return [run for run in found if any(event["event"] == "finished" for event in run)]


def measure(run: list[Event], slots: int, before: float) -> dict[str, Any]:
    """Returns wall seconds, busy seconds and shares; `before`: seconds of the process before its first event."""
    begin, end = run[0]["time"], next(event["time"] for event in run if event["event"] == "finished")
    stages: dict[str, dict[str, Any]] = {}
    first = end
    for event in run:
        if event["event"] == "unit":
            stage = stages.setdefault(event["stage"], {"units": 0, "busy": 0.0, "wall": 0.0})
            stage["units"] += 1
            stage["busy"] += event["seconds"]
            first = min(first, event["time"] - event["seconds"])
        elif event["event"] == "stage_end":
            stage = stages.setdefault(event["stage"], {"units": 0, "busy": 0.0, "wall": 0.0})
            stage["wall"] += event["seconds"]
    wall = end - begin + before
    inside = sum(stage["wall"] for stage in stages.values())
    training_wall = sum(stage["wall"] for name, stage in stages.items() if name in TRAINING)
    busy = sum(stage["busy"] for stage in stages.values())
    return {
        "wall_seconds": wall,
        "slots": slots,
        "stages": stages,
        "seconds_to_first_unit": first - begin + before,
        "outside_stages_seconds": wall - inside,
        "share_of_wall_outside_training_stages": 1 - training_wall / wall,
        "share_of_wall_without_work": 1 - busy / slots / wall,
        "share_of_wall_training_fills": sum(s["busy"] for n, s in stages.items() if n in TRAINING) / slots / wall,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder of a run that started with an empty store")
    parser.add_argument("--slots", type=int, help="units at once, where the log does not say")
    parser.add_argument(
        "--before", type=float, default=0.0, help="seconds from the start of the command to its first event"
    )
    args = parser.parse_args()
    events = list(OutputFolder(args.folder).events())
    runs = [run for run in invocations(events) if any(event["event"] == "unit" for event in run)]
    if not runs:
        print(f"{args.folder}: no finished invocation with units", file=sys.stderr)
        return 2
    run = runs[-1]
    slots = args.slots or next((event["slots"] for event in run if event["event"] == "engine"), 0)
    if not slots:
        print("the log does not say how many units ran at once: give --slots", file=sys.stderr)
        return 2
    found = measure(run, slots, args.before)
    print(f"{'stage':<10}{'units':>7}{'wall s':>9}{'busy s':>9}")
    for name, stage in found["stages"].items():
        print(f"{name:<10}{stage['units']:>7}{stage['wall']:>9.1f}{stage['busy']:>9.1f}")
    print(
        f"wall {found['wall_seconds']:.1f} s, {found['seconds_to_first_unit']:.1f} s to the first unit; of it {found['outside_stages_seconds']:.1f} s outside any stage (start, Ray, MLflow's end); "
        f"{100 * found['share_of_wall_outside_training_stages']:.0f} % outside training and unlearning, "
        f"{100 * found['share_of_wall_without_work']:.0f} % of slots × wall without a unit at work"
    )
    print(json.dumps({"benchmark": "share", "folder": args.folder.name, **found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
