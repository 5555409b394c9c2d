"""A finished run of a hundred thousand units: what `plan`, `run` (again), `status` and `report` cost.

    python benchmarks/orchestration/thousands.py [--units 100000] [--shape models|settings] [--settings 50]
        [--repeats 3] [--folder DIR]

Nothing is trained. One unit of each kind is made in this process, and the others of its kind get its files, outputs with
logits of their own. What measures them (attacks, distances, single samples) is then run for real, once.
`models`: many shadow models, few settings. `settings`: few models, many settings of a method. Each command is timed from
the start of its process to its end, with its processor time and the peak of its memory. A folder that is given is kept
and used again. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from finished import RECIPE

from orchestrator.plan.data import ExperimentData, load_data
from orchestrator.plan.plan import make_plan
from orchestrator.plan.rows import Plan
from orchestrator.plan.units import Unit
from orchestrator.recipe.recipe import check_recipe
from orchestrator.records.folder import OutputFolder
from orchestrator.store import open_store
from orchestrator.store.base import COMMIT_MARK, Store, commit_document
from orchestrator.work.context import Context
from orchestrator.work.execute import execute
from orchestrator.work.outputs import write_fragment

COPIED = ("train", "unlearn", "outputs", "unseen")
TESTED = {"models": 100, "settings": 20}


def recipe(units: int, shape: str, settings: int) -> dict[str, Any]:
    """Returns a recipe of about so many units; `settings` of a method in the shape of that name."""
    models = max(3 * TESTED[shape], units // 4 if shape == "models" else units // (2 * settings + 4))
    tested = TESTED[shape]
    document = {
        **RECIPE,
        "name": f"thousands-{shape}",
        "shadows": {"originals": models, "retrained": models, "split": [models - 2 * tested, tested, tested]},
        "tracking": {"uri": None},
    }
    if shape == "settings":
        rates = [round(0.001 * (1 + place), 3) for place in range(settings)]
        document["shadows"]["unlearn"] = "all"
        document["methods"] = [{"name": "eu_k", "k": 1, "epochs": 1, "lr": {"grid": rates}}]
    return document


def templates(plan: Plan) -> Iterator[tuple[tuple[str, bool], Unit]]:
    """Yields one unit of each kind and measure, with what tells it from the others."""
    seen = set()
    for unit in plan.units():
        sort = (unit.kind, unit.label.fold == "test")
        if unit.kind in COPIED and sort not in seen:
            seen.add(sort)
            yield sort, unit


def fill(plan: Plan, data: ExperimentData, store: Store, root: Path) -> int:
    """Writes every model and its outputs into the store; returns how many objects that were."""
    context = Context(store, data, threads=1)
    made = {}
    for sort, unit in templates(plan):
        outcome = execute(unit, context)
        assert not outcome.failed, outcome.error
        made[sort] = (store.folder(unit.key), store.meta(unit.key))
    generator = np.random.default_rng(0)
    count = 0
    for unit in plan.units():
        folder = root / "objects" / unit.key[:2] / unit.key
        if unit.kind not in COPIED or folder.exists():
            continue
        source, meta = made[unit.kind, unit.label.fold == "test"]
        folder.mkdir(parents=True)
        for path in source.iterdir():
            if path.name != COMMIT_MARK and unit.kind != "outputs":
                os.link(path, folder / path.name)  # the same bytes: a hundred thousand copies would take gigabytes
        if unit.kind == "outputs":
            forget = data.split.forget
            logits = generator.normal(size=(len(forget), meta["columns"]))
            write_fragment(folder / "outputs.parquet", forget, data.split.labels[forget], logits)
        own = {**meta, "name": unit.name, "spec": unit.spec.identity(), "cost": unit.cost}
        mark = commit_document(unit.key, folder, own)
        (folder / COMMIT_MARK).write_text(json.dumps(mark, sort_keys=True))
        count += 1
    return count


def log(plan: Plan, folder: OutputFolder) -> None:
    """Writes the events that such a run leaves: `status` reads nothing else."""
    with (folder.path / "events.jsonl").open("a") as file:

        def event(**fields: Any) -> None:
            file.write(json.dumps({"time": round(time.time(), 3), **fields}) + "\n")

        event(event="start", recipe=plan.recipe.name, host="benchmark", pid=1)
        event(event="engine", where="2 units at once", slots=2)
        for stage, units in plan.stages.items():
            event(event="stage_start", stage=stage, units=len(units), reused=0, cost=sum(unit.cost for unit in units))
            for unit in units:
                about = {"stage": stage, "unit": unit.key, "name": unit.name, "where": "benchmark"}
                event(event="unit_start", **about, attempt=1)
                event(event="unit", **about, status="done", seconds=0.1, cost=unit.cost)
            event(event="stage_end", stage=stage, seconds=1.0)
        event(event="finished", failed=0, driver_peak_mib=0)


def command(folder: Path, *arguments: str) -> dict[str, float]:
    """Runs a command to its end; returns its seconds, processor seconds and peak memory in MiB."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *arguments], cwd=folder, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"orchestrator {' '.join(arguments)}: exit code {process.returncode}")
    return {
        "seconds": round(time.monotonic() - started, 2),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_mib": round(used.ru_maxrss / 1024),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=100_000, help="about how many")
    parser.add_argument("--shape", choices=tuple(TESTED), default="settings")
    parser.add_argument("--settings", type=int, default=50, help="of the method, in the shape `settings`")
    parser.add_argument("--repeats", type=int, default=3, help="of each command")
    parser.add_argument("--folder", type=Path, help="instead of a temporary one")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="orc-thousands-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        document = recipe(args.units, args.shape, args.settings)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(document))
        out = OutputFolder(folder / "out")
        store = open_store(str(out.path / "store"))
        data = load_data(check_recipe(document), store)
        plan = make_plan(check_recipe(document), data)
        units = len(list(plan.units()))
        started = time.monotonic()
        count = fill(plan, data, store, out.path / "store")
        print(f"{units} units planned, {count} written in {time.monotonic() - started:.0f} s", flush=True)
        again = ("run", "recipe.yaml", "--output", "out", "--quiet", "--address", "inline", "--force")
        if not (out.path / "report.html").is_file():
            first = command(folder, *again)
            log(plan, out)
            print(f"attacks, distances and single samples measured in {first['seconds']:.0f} s", flush=True)
        found: dict[str, list[dict[str, float]]] = {}
        asked = {
            "plan": ("plan", "recipe.yaml", "--output", "out"),
            "run again": again,
            "status": ("status", "out"),
            "report": ("report", "out"),
        }
        for name, arguments in asked.items():
            found[name] = [command(folder, *arguments) for _ in range(args.repeats)]
            middle = sorted(found[name], key=lambda one: one["seconds"])[args.repeats // 2]
            print(
                f"{name:<10} {middle['seconds']:6.1f} s, {middle['processor_seconds']:6.1f} s of the processor, "
                f"{middle['peak_mib']:5.0f} MiB",
                flush=True,
            )
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"benchmark": "thousands", "shape": args.shape, "units": units, "commands": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
