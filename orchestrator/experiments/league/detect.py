"""How many models a comparison needs before it can tell a gap from none, and what they cost.

Spreads are measured ones: of the results that lie in the output folder, or of scores in the store.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from attack.metrics.planning import LEVEL, POWER, Spreads, models_for_gap, models_for_ranking
from attack.metrics.row import NO_UNLEARN, RETRAIN, Row, metric_name
from unlearn import METHODS

from ...base.errors import UserError
from ...plan.data import ExperimentData
from ...plan.league import GROUPS
from ...plan.plan import make_plan
from ...plan.rows import Plan
from ...plan.search import primary_attack
from ...recipe.recipe import changed
from ...recipe.sections import Recipe
from ...records.folder import OutputFolder
from ...store import Store
from ...work.scoring import stored_score
from ..estimate import Estimate, Left, estimate

FEW_MODELS = 8


class Detection(TypedDict):
    """What `orchestrator plan --detect` says.

    `spread_method`, `spread_retrain`: standard deviations of the AUC between models. `measured_on`:
    how many of a method's models they come from at the least. `models`: under test, on each side,
    for the interval of method − Retrain. `models_ranking`: to call the one best of `rivals` + 1
    methods a winner; null where fewer than two compete. `left`: what is left to do with `models`.
    """

    gap: float
    power: float
    level: float
    metric: str
    spread_method: float
    spread_retrain: float
    correlation: float
    measured_on: int
    models: int
    models_ranking: int | None
    rivals: int
    left: Left
    left_ranking: Left | None


@dataclass(frozen=True)
class Measured:
    """Spreads between models, and on how many they were measured at the least."""

    spreads: Spreads
    models: int


def spreads_of(tables: Sequence[Mapping[str, float]], retrain: Mapping[str, float]) -> Measured | None:
    """Returns the spreads of methods' values by model; None where fewer than two models of a side
    are known.

    A method's spread is the root of the mean variance. The correlation is the mean over pairs of
    methods on the same originals; a pair whose values do not vary counts as 0.
    """
    known = [table for table in tables if len(table) > 1]
    if not known or len(retrain) < 2:
        return None
    variances = [float(np.var(list(table.values()), ddof=1)) for table in known]
    found = []
    for first, second in itertools.combinations(known, 2):
        common = [name for name in first if name in second]
        sides = [np.asarray([table[name] for name in common]) for table in (first, second)]
        varies = len(common) > 2 and all(float(np.ptp(side)) > 0.0 for side in sides)
        found.append(float(np.corrcoef(sides[0], sides[1])[0, 1]) if varies else 0.0)
    correlation = float(np.clip(np.mean(found), -0.99, 0.99)) if found else 0.0
    spreads = Spreads(math.sqrt(float(np.mean(variances))), float(np.std(list(retrain.values()), ddof=1)), correlation)
    return Measured(spreads, min(len(retrain), *(len(table) for table in known)))


def detect(
    recipe: Recipe, plan: Plan, data: ExperimentData, store: Store | None, folder: Path, gap: float, slots: int
) -> Detection:
    """Returns how many models it takes to tell `gap` of AUC from none, and what is left to do then.

    **Raises:** `UserError` where no spread has been measured yet, or the gap is too small.
    """
    attack = primary_attack(recipe)
    name = "xgboost" if attack is None else attack.name
    measured = _from_folder(folder, name) or _from_store(plan, store, name)
    if measured is None:
        raise UserError(
            f"--detect: {gap:g}: no spread between models is known yet; run the recipe first with few models under test, into the "
            "same --output or --store"
        )
    rivals = _rivals(recipe)
    looks = 1 if recipe.league is None else recipe.league.looks
    try:
        models = models_for_gap(gap, measured.spreads)
        ranking = models_for_ranking(gap, measured.spreads, rivals, level=LEVEL / looks) if rivals else None
    except ValueError as error:
        raise UserError(f"--detect: {error}") from None
    least = max(2, models)
    return {
        "gap": gap,
        "power": POWER,
        "level": LEVEL,
        "metric": metric_name(name, "auc"),
        "spread_method": measured.spreads.method,
        "spread_retrain": measured.spreads.retrain,
        "correlation": measured.spreads.correlation,
        "measured_on": measured.models,
        "models": least,
        "models_ranking": ranking,
        "rivals": rivals,
        "left": _with_models(recipe, data, store, least, slots)["total"],
        "left_ranking": None if ranking is None else _with_models(recipe, data, store, ranking, slots)["total"],
    }


def _rivals(recipe: Recipe) -> int:
    """Returns how many others the largest group's best method has, doing nothing among them."""
    groups = [GROUPS[METHODS[name].access] for name in dict.fromkeys(point.name for point in recipe.methods)]
    largest = max((groups.count(group) for group in groups), default=0)
    return largest if largest > 1 else 0


def _with_models(recipe: Recipe, data: ExperimentData, store: Store | None, models: int, slots: int) -> Estimate:
    """Returns what is left to do with so many models under test on each side."""
    train, validation, _ = recipe.shadows.split
    count = train + validation + models
    sizes = {"originals": count, "retrained": count, "split": [train, validation, models]}
    plan = make_plan(changed(recipe, shadows={**recipe.section("shadows"), **sizes}), data)
    return estimate(plan, store, data.digest, slots)


def _from_folder(folder: Path, attack: str) -> Measured | None:
    results = OutputFolder(folder).results() if folder.is_dir() else None
    if results is None:
        return None
    rows = [Row.from_json(row) for row in results["rows"]]
    metric = metric_name(attack, "auc")
    tables = [row[metric].by_model for row in rows if row.method not in (NO_UNLEARN, RETRAIN)]
    retrain = next((row[metric].by_model for row in rows if row.method == RETRAIN), {})
    return spreads_of(tables, retrain)


def _from_store(plan: Plan, store: Store | None, attack: str) -> Measured | None:
    if store is None:
        return None
    tables: dict[str, list[Mapping[str, float]]] = {}
    for row in plan.rows:
        score = next((unit for unit in row.scores if unit.label.attack == attack), None)
        if score is None or not store.has(score.key):
            continue
        names = {unit.label.model_id: f"{row.method == RETRAIN}-{unit.label.source}" for unit in row.targets}
        tables.setdefault(row.method, []).append(stored_score(score, store, names).metrics["auc"].by_model)
    mine = [table for method, several in tables.items() if method not in (NO_UNLEARN, RETRAIN) for table in several]
    return spreads_of(mine, tables.get(RETRAIN, [{}])[0])
