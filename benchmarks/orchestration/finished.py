"""A run of thousands of real, tiny units through everything — store, log, MLflow — and the same command again, and again.

    python benchmarks/orchestration/finished.py [--units 5000] [--repeats 3] [--folder DIR]

First what orchestration cost a unit in the first run: slots × wall time of the stages, less what units worked, over units.
Then how long the command takes where everything is done: as a user waits, from the start of the process to its end. Nothing
else may run on the machine. A folder that is given is kept and used again. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from share import invocations, measure

from orchestrator.records.folder import OutputFolder

# Two units a model: its training and its outputs. Few images and one epoch: what is measured is all around them.
RECIPE: dict[str, Any] = {
    "name": "finished",
    "dataset": {"source": "digits", "limit": {"train": 200, "test": 100}},
    "scenario": {"kind": "samples", "per_class": 1},
    "model": {"name": "small_vgg", "width": 0.0625},
    "training": {"epochs": 1, "batch_size": 64, "augment": None, "lr": 0.05, "final_lr": 0.05},
    "methods": [{"name": "eu_k", "k": 1, "epochs": 1}],
    "attacks": [{"name": "lira", "mode": "offline"}],
    "tracking": {"uri": "sqlite:///mlflow.db"},
}


def recipe(units: int) -> dict[str, Any]:
    """Returns a recipe of about so many units."""
    models = max(6, units // 4)
    tenth = max(1, models // 10)
    return {
        **RECIPE,
        "shadows": {"originals": models, "retrained": models, "split": [models - 2 * tenth, tenth, tenth]},
    }


def invoke(folder: Path) -> float:
    """Runs the command to its end and returns its seconds."""
    command = [sys.executable, "-m", "orchestrator", "run", "recipe.yaml", "--output", "out", "--quiet"]
    started = time.monotonic()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=5000, help="about how many")
    parser.add_argument("--repeats", type=int, default=3, help="of the command where everything is done")
    parser.add_argument("--folder", type=Path, help="instead of a temporary one")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="orc-finished-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(args.units)))
        seconds = invoke(folder)
        events = list(OutputFolder(folder / "out").events())
        run = next(run for run in invocations(events) if any(event["event"] == "unit" for event in run))
        slots = next(event["slots"] for event in run if event["event"] == "engine")
        found = measure(run, slots, 0.0)
        stages = {name: stage for name, stage in found["stages"].items() if stage["units"] >= 100}
        units = sum(stage["units"] for stage in stages.values())
        spent = sum(stage["wall"] for stage in stages.values())
        busy = sum(stage["busy"] for stage in stages.values())
        overhead = 1000 * (spent * slots - busy) / units
        peak = next(event["driver_peak_mib"] for event in run if event["event"] == "finished")
        print(
            f"{units} units in {spent:.0f} s of {seconds:.0f} s, {slots} at once: {1000 * busy / units:.0f} ms of work and "
            f"{overhead:.1f} ms of everything else a unit; driver's peak {peak} MiB",
            flush=True,
        )
        again = []
        for _ in range(args.repeats):
            again.append(invoke(folder))
            print(f"everything done: {again[-1]:.2f} s", flush=True)
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    result = {
        "benchmark": "finished",
        "units": units,
        "slots": slots,
        "work_ms_per_unit": 1000 * busy / units,
        "overhead_ms_per_unit": overhead,
        "wall_seconds": seconds,
        "driver_peak_mib": peak,
        "finished_seconds": again,
        "finished_seconds_median": statistics.median(again),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
