"""`orchestrator plan`: what would run, and what it may cost."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NotRequired

import torch

from ..base.documents import DataSummary
from ..engine.ray.placement import Node, Placement
from ..engine.start import ray_session
from ..experiments.estimate import Estimate, Left, estimate
from ..experiments.league.detect import FEW_MODELS, Detection, detect
from ..plan.data import load_data
from ..plan.plan import make_plan
from ..plan.stages import STAGE_TITLES
from ..recipe.sections import Resources
from ..records.progress import duration
from ..store import existing_store
from . import common
from .ending import print_json


class PlanDocument(Estimate, DataSummary):
    """What `orchestrator plan --json` prints."""

    recipe: str
    store: str
    rows: int
    detection: NotRequired[Detection]


def main(args: argparse.Namespace) -> int:
    recipe = common.load(args)
    common.say_what_is_left_out(recipe, "plan")
    uri = args.store or str((args.output or Path("runs") / recipe.name) / "store")
    store = existing_store(uri)
    data = load_data(recipe, store, keep=False, stand_in=True, allow_factory=args.allow_factory)
    plan = make_plan(recipe, data)
    slots = args.slots or _slots(recipe.resources, args.address)
    found = estimate(plan, store, data.digest, slots)
    document: PlanDocument = {
        "recipe": recipe.name,
        "store": uri,
        **found,
        "rows": len(plan.rows),
        **data.summary(),
    }
    if args.detect is not None:
        folder = args.output or Path("runs") / recipe.name
        document["detection"] = detect(recipe, plan, data, store, folder, args.detect, slots)
    if args.json:
        print_json(document)
    else:
        print(render(document))
    return 0


def _slots(resources: Resources, address: str | None) -> int:
    """Returns how many units fit at once, on a cluster or on this machine."""
    if address:
        session = ray_session(address)
        try:
            nodes = session.node_resources()
        finally:
            session.close()
    else:
        nodes = [{"CPU": float(os.cpu_count() or 1)}]
        if resources.gpus_per_unit:
            nodes[0]["GPU"] = float(torch.cuda.device_count())
    return Placement(tuple(Node.of(node) for node in nodes), resources).slots("train")


def render(document: PlanDocument) -> str:
    """Returns the plan as text."""
    facts, split = document["dataset"], document["split"]
    lines = [
        f"{document['recipe']}: {facts['name']}, {facts['train']:,} training and {facts['test']:,} test images, {facts['classes']} classes",
        f"forget {split['forget']:,}, retain {split['retain']:,}, val {split['val']:,}, test {split['test']:,}; {document['rows']} result rows",
        *split["notes"],
        f"{'stage':<20}{'units':>8}{'stored':>8}{'missing':>9}{'work left':>12}{'takes':>10}",
    ]
    for stage, counts in document["stages"].items():
        work, wall = counts["unit_seconds_left"], counts["wall_seconds_left"]
        shown = (
            f"{duration(work):>12}{duration(wall):>10}"
            if work is not None and wall is not None
            else f"{'unknown':>12}{'unknown':>10}"
        )
        lines.append(f"{STAGE_TITLES[stage]:<20}{counts['units']:>8}{counts['stored']:>8}{counts['missing']:>9}{shown}")
    total = document["total"]
    seconds = total["wall_seconds_left"]
    if seconds is None:
        lines.append("total: unknown until units like these have run, here or in the store that --store names")
    else:
        gpus = f", {total['gpu_hours_left']:.3g} GPU-hours" if total["gpu_hours_left"] else ""
        lines.append(
            f"total: {total['cpu_hours_left']:.3g} CPU-hours{gpus}; about {duration(seconds)} with "
            f"{document['slots']} units at once, without starting and drawing"
        )
    learnt = document["learnt_from"]
    if learnt["own_units"] or learnt["units_of_others"]:
        others = f" and {learnt['units_of_others']} of other experiments" if learnt["units_of_others"] else ""
        lines.append(
            f"from {learnt['own_units']} units of this experiment{others}, measured on {', '.join(learnt['hosts'])}"
        )
    if "detection" in document:
        lines += _detection(document["detection"])
    return "\n".join(lines)


def _detection(found: Detection) -> list[str]:
    """Returns how many models it takes to see a gap, in words."""
    power = f"{found['power']:.0%}"
    lines = [
        f"to tell a gap of {found['gap']:g} in {found['metric']} from none in {power} of cases: {found['models']} models under test on "
        f"each side; {_cost(found['left'])}",
    ]
    if found["models_ranking"] is not None:
        lines.append(
            f"to call the best of {found['rivals'] + 1} a winner where the others are {found['gap']:g} farther from Retrain: "
            f"{found['models_ranking']} models; {_cost(found['left_ranking'])}"
        )
    lines.append(
        f"from a spread between models of {found['spread_method']:.3f} (methods) and {found['spread_retrain']:.3f} (Retrain)"
    )
    if found["measured_on"] < FEW_MODELS:
        lines.append(f"measured on {found['measured_on']} models only: a rough guess; plan again when more have run")
    return lines


def _cost(left: Left | None) -> str:
    if left is None or left["cpu_hours_left"] is None or left["wall_seconds_left"] is None:
        return "time unknown until units like these have run"
    return f"{left['cpu_hours_left']:.3g} CPU-hours left, about {duration(left['wall_seconds_left'])}"
