"""Runs the chaos scenarios, says what is survived as it goes, and ends in one line of JSON.

    python -m tests.chaos [--only NAME …] [--seed N] [--kills N] [--output docs/results/chaos]
    for seed in 2 3 4 5 6; do python -m tests.chaos --seed $seed --output docs/results/chaos; done

Exit code 0 where everything was survived, else 1.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.records.progress import duration

from .bucket import kill_driver_s3, kill_workers_s3
from .clocks import skew
from .cluster import kill_head, kill_raylet
from .disk import full_disk
from .files import damage_folder, damage_store
from .kills import freeze, interrupt, kill_driver, kill_workers
from .lab import Lab
from .races import race, second_submission
from .scenario import Report
from .server import tracking_server
from .table import merge, write_table

# Name → (what is done, its function, how long it takes in undisturbed runs: for the ETA).
SCENARIOS: dict[str, tuple[str, Callable[..., None], float]] = {
    "driver": ("SIGKILL of the driver at 20 random moments", kill_driver, 13.0),
    "workers": ("SIGKILL of 6 random workers", kill_workers, 1.7),
    "driver-s3": ("SIGKILL of the driver at 4 random moments, the store on S3", kill_driver_s3, 3.5),
    "workers-s3": ("SIGKILL of 4 random workers, the store on S3", kill_workers_s3, 1.7),
    "raylet": ("SIGKILL of a node's raylet", kill_raylet, 2.0),
    "head": ("SIGKILL of the cluster's head, and of the whole cluster", kill_head, 5.5),
    "store-files": ("truncated, flipped and empty files in the store", damage_store, 4.0),
    "folder-files": ("truncated, flipped and empty files in the output folder", damage_folder, 4.0),
    "full-disk": ("the disk runs full, four times", full_disk, 3.0),
    "second-submission": ("the same command twice at a time", second_submission, 1.3),
    "race": ("two experiments, one store, the same models, at a time", race, 2.0),
    "clock-skew": ("clocks a day ahead, then a day behind, and all different", skew, 2.2),
    "sigterm": ("SIGTERM in each stage", interrupt, 3.0),
    "sigstop": ("the driver frozen for 15 s", freeze, 1.5),
    "mlflow-server": ("SIGKILL of the MLflow server, then of the driver", tracking_server, 2.5),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=SCENARIOS, help=", ".join(SCENARIOS))
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (default 0)")
    parser.add_argument("--kills", type=int, default=20, help="kills of the driver (default 20)")
    parser.add_argument(
        "--output", type=Path, help="folder of README.md and chaos.json; other seeds and scenarios stay"
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = args.only or list(SCENARIOS)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{duration(time.monotonic() - started):>7}] {text}", flush=True)

    lab = Lab(args.seed, say)
    reports = []
    try:
        clean = lab.clean
        say(f"undisturbed: {clean.seconds:.0f} s, {len(clean.keys)} objects; finished, {clean.start_up:.1f} s")
        left = sum(SCENARIOS[name][2] for name in names)
        for name in names:
            title, _, cost = SCENARIOS[name]
            say(f"{name}: {title} (about {duration(left * clean.seconds)} left in all)")
            report = run_one(lab, name, args)
            reports.append(report)
            left -= cost
            worst = max((e["ratio"] for e in report.experiments), default=None)
            outcome = "survived" if not report.problems else "NOT survived"
            outcome = f"not done ({report.skipped})" if report.skipped else outcome
            say(f"  {outcome}: {report.faults} faults{f', {worst:.2f} × the time' if worst else ''}")
            for problem in report.problems:
                say(f"    {problem}")
        documents = summary(lab, reports, args)
    finally:
        lab.close()
    if args.output:
        write_table(args.output, merge(args.output, documents), list(SCENARIOS))
    print(json.dumps(short(list(documents.values()), round(time.monotonic() - started))))
    return 0 if all(not report.problems for report in reports) else 1  # what could not be done is said, not failed


def run_one(lab: Lab, name: str, args: argparse.Namespace) -> Report:
    """Runs one scenario; a scenario that breaks itself was not survived."""
    title, function, _ = SCENARIOS[name]
    report = Report(name, title)
    began = time.monotonic()
    # Each scenario draws from its own generator, so that one alone repeats what it does among all.
    generator = random.Random(f"{args.seed}-{name}")
    options = {"kills": args.kills} if name == "driver" else {}
    try:
        function(lab, generator, report, **options)
    except Exception as error:
        traceback.print_exc()
        report.add([f"the scenario broke: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"])
    report.seconds = time.monotonic() - began
    return report


def summary(lab: Lab, reports: list[Report], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Returns what this invocation found as JSON data, by scenario."""
    from orchestrator.base.provenance import git_state

    clean = lab.clean
    origin = {
        "seed": args.seed,
        "commit": git_state().get("commit", "")[:10],
        "clean_seconds": round(clean.seconds, 1),
        "start_up_seconds": round(clean.start_up, 1),
        "first_unit_seconds": round(clean.timeline[0], 1),
        "objects": len(clean.keys),
    }
    return {report.name: report.document() | origin for report in reports}


def short(ran: list[dict[str, Any]], seconds: int) -> dict[str, Any]:
    """Returns the last line: what was survived, what was not and why."""
    return {
        "survived": sum(s["survived"] for s in ran),
        "scenarios": len(ran),
        "faults": sum(s["faults"] for s in ran),
        "not_survived": {s["name"]: s["problems"] for s in ran if not s["survived"]},
        "seconds": seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
