"""`orchestrator plan`: what would run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import common


def arguments(parser: argparse.ArgumentParser) -> None:
    common.recipe_arguments(parser)
    common.output_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(args: argparse.Namespace) -> int:
    from ..cli import print_json
    from ..data import load_data
    from ..plan import STAGE_TITLES, STAGES, make_plan
    from ..progress import duration
    from ..store import open_store

    recipe = common.load(args)
    uri = args.store or str((args.output or Path("runs") / recipe.name) / "store")
    # Planning leaves nothing behind: a store that is not there yet is simply empty.
    store = open_store(uri) if uri.startswith("s3://") or Path(uri).is_dir() else None
    data = load_data(recipe, store, keep=False)
    plan = make_plan(recipe, data)
    document: dict[str, Any] = {"recipe": recipe.name, "store": uri, "stages": {}, **data.summary()}
    for stage in STAGES:
        units = plan.stages[stage]
        stored = [unit for unit in units if store is not None and store.has(unit.key)]
        done = (
            [(unit.cost, float(store.meta(unit.key)["seconds"])) for unit in stored[:200]] if store is not None else []
        )
        left = sum(unit.cost for unit in units) - sum(unit.cost for unit in stored)
        seconds = (
            left * sum(s for _, s in done) / max(sum(c for c, _ in done), 1e-9)
            if done
            else (0.0 if len(stored) == len(units) else None)
        )
        document["stages"][stage] = {
            "units": len(units),
            "stored": len(stored),
            "missing": len(units) - len(stored),
            "unit_seconds_left": seconds,
        }
    if args.json:
        print_json(document)
        return 0
    facts, split = document["dataset"], document["split"]
    print(
        f"{recipe.name}: {facts['name']}, {facts['train']:,} training and {facts['test']:,} test images, {facts['classes']} classes"
    )
    print(
        f"forget {split['forget']:,}, retain {split['retain']:,}, val {split['val']:,}, test {split['test']:,}; {len(plan.rows)} result rows"
    )
    print(f"{'stage':<20}{'units':>8}{'stored':>8}{'missing':>9}  estimated work left")
    for stage, counts in document["stages"].items():
        left = counts["unit_seconds_left"]
        shown = duration(left) + " of one unit slot" if left is not None else "unknown until a unit like these has run"
        print(f"{STAGE_TITLES[stage]:<20}{counts['units']:>8}{counts['stored']:>8}{counts['missing']:>9}  {shown}")
    return 0
