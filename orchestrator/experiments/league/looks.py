"""The first look at half of the models under test. A method whose place is then certain is not
measured further."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from attack.metrics.measure import Measure
from attack.metrics.ranks import Call, Standing, look
from attack.metrics.row import NO_UNLEARN, RETRAIN
from attack.metrics.spread import over_seeds
from unlearn import METHODS

from ...plan.league import GROUPS, LeaguePlan
from ...plan.rows import Plan, Row
from ...plan.sides import judged_ones
from ...plan.specs import ScoreSpec
from ...plan.units import Unit
from ...store import Store
from ...work.scoring import stored_score
from .table import contenders, reference_of

LEAST_MODELS = 4  # with fewer, half of them tell nothing


@dataclass(frozen=True)
class FirstLook:
    """What a first look came to: pairs that were told apart, and how many models were measured of
    methods whose place is certain."""

    calls: tuple[Call, ...]
    measured: dict[str, int]


def looks_of(plan: LeaguePlan) -> int:
    """Returns how many looks a league takes. Distances are measured once, over all models."""
    enough = plan.recipe.shadows.split[2] >= LEAST_MODELS
    return plan.league.looks if enough and plan.league.objective == "auc_gap" else 1


def take(plan: LeaguePlan, whole: Plan, store: Store, run: Callable[[Sequence[Unit]], None]) -> FirstLook:
    """Measures half of the models under test and says what is certain.

    **Arguments:** `whole`: the plan of the winners' run. `run`: makes units that are not stored.
    """
    half = math.ceil(plan.recipe.shadows.split[2] / 2)
    scores = {}
    for place, row in enumerate(whole.rows):
        outputs = row.targets if row.method in (NO_UNLEARN, RETRAIN) else row.targets[:half]
        scores[place] = _score(row, plan.attack, outputs)
    run(list(scores.values()))
    standing = _standing(plan, whole, store, scores)
    if standing is None:
        return FirstLook((), {})
    settled = [each.name for each in standing.contenders if standing.settled(each.name)]
    measured = {name: half for name in settled if not name.startswith(NO_UNLEARN)}
    return FirstLook(standing.calls, measured)


def _score(row: Row, attack: str, outputs: Sequence[Unit]) -> Unit[ScoreSpec]:
    """Returns the row's score by one attack, of some of its models."""
    score = next(unit for unit in row.scores if unit.label.attack == attack)
    if not isinstance(score.spec, ScoreSpec):
        raise TypeError(f"{score.name} is no score")
    left = {unit.key for unit in row.targets} - {unit.key for unit in outputs}
    needs = tuple(unit for unit in score.needs if unit.key not in left)
    spec = replace(score.spec, positive=judged_ones(outputs))
    return replace(score, spec=spec, name=f"{score.name}, first {len(outputs)} models", needs=needs)


def _standing(plan: LeaguePlan, whole: Plan, store: Store, scores: dict[int, Unit[ScoreSpec]]) -> Standing | None:
    found: dict[str, list[Measure]] = {}
    for place, row in enumerate(whole.rows):
        unit = scores[place]
        if not store.has(unit.key):
            found.setdefault(row.method, []).append(Measure(None))
            continue
        names = {
            o.label.model_id: o.label.model_id if row.method == RETRAIN else f"original-{o.label.source:03d}"
            for o in row.targets
        }
        found.setdefault(row.method, []).append(stored_score(unit, store, names).metrics["auc"])
    measures = {method: over_seeds(several) for method, several in found.items()}
    if not measures[RETRAIN].known or not measures[NO_UNLEARN].known:
        return None
    groups = {m: GROUPS[METHODS[m].access] for m, value in measures.items() if m in METHODS and value.known}
    groups = {m: group for m, group in groups.items() if m not in (NO_UNLEARN, RETRAIN)}
    return look(
        contenders(plan, measures, groups), reference_of(plan, measures[RETRAIN]), number=1, looks=looks_of(plan)
    )
