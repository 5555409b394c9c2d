"""How a result row is made, for a run and for an audit alike: what each attack measured, then the
row.

Nothing is fitted, scored or read here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..distances.base import DIVERGENCES
from ..distances.compare import Distances
from ..metrics.areas import Areas
from ..metrics.evaluation import Evaluation, Scores, worst_samples
from ..metrics.measure import DRAWS, Measure
from ..metrics.row import RETRAIN, Attacker, Row, WorstSample, metric_name
from ..metrics.tiny import tiny_scores


@dataclass(frozen=True)
class Scored:
    """What one attack measured of one row's models.

    **Arguments:**

    - `metrics`: by name, without the attack's prefix. The AUC carries its areas.
    - `retrain`: the areas of Retrain's models under an attacker that was fitted for this row.
        None where one attacker scored all rows.
    """

    attack: str
    metrics: Mapping[str, Measure]
    attacker: Attacker
    worst_samples: Sequence[WorstSample] = ()
    notes: tuple[str, ...] = ()
    retrain: Areas | None = None

    @property
    def areas(self) -> Areas:
        """The AUC of every pair of models."""
        areas = self.metrics["auc"].areas
        if areas is None:
            raise ValueError(f"{self.attack}: the AUC was given without its areas")
        return areas

    @classmethod
    def of(
        cls,
        attack: str,
        evaluation: Evaluation,
        positive: Scores,
        negative: Scores,
        attacker: Attacker,
        names: Sequence[str],
        *,
        seed: int,
        draws: int = DRAWS,
        retrain: Areas | None = None,
    ) -> Scored:
        """Returns the measures of an evaluation, with the share of tiny scores.

        **Arguments:** `names`: of the trained models that those under test were made from, in the
        order of their sorted ids.
        """
        models = min(evaluation.areas.matrix.shape)
        metrics = {n: Measure.of(v, evaluation.ci.get(n), models=models) for n, v in evaluation.metrics.items()}
        by_model = dict(zip(names, evaluation.areas.by_model().tolist(), strict=True))
        metrics["auc"] = replace(metrics["auc"], by_model=by_model, areas=evaluation.areas)
        value, interval, shares = tiny_scores(positive, negative, seed, draws)
        metrics["tiny_scores"] = Measure.of(
            value, interval, dict(zip(names, shares, strict=True)) if shares else {}, models
        )
        worst = worst_samples(positive, negative)
        return cls(attack, metrics, attacker, worst, evaluation.notes, retrain)

    def to_json(self) -> dict[str, Any]:
        """Returns what a stored score holds, besides the areas."""
        return {
            "metrics": {name: measure.value for name, measure in self.metrics.items()},
            "ci": {n: list(m.interval) for n, m in self.metrics.items() if m.interval is not None},
            "by_model": {n: list(m.by_model.values()) for n, m in self.metrics.items() if m.by_model},
            "worst_samples": [dict(sample) for sample in self.worst_samples],
            "attack": self.attacker.to_json(),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(
        cls, attack: str, document: Mapping[str, Any], names: Sequence[str], areas: Areas, retrain: Areas | None = None
    ) -> Scored:
        """Returns what `to_json` wrote, with the areas that lie beside it. `names`: as of `of`."""
        models = min(areas.matrix.shape)
        intervals, by_model = document["ci"], document["by_model"]
        metrics = {
            name: Measure.of(value, intervals.get(name), dict(zip(names, by_model.get(name, ()), strict=False)), models)
            for name, value in document["metrics"].items()
        }
        metrics["auc"] = replace(metrics["auc"], areas=areas)
        attacker = Attacker.from_json(document["attack"])
        return cls(attack, metrics, attacker, document["worst_samples"], tuple(document["notes"]), retrain)


def build_row(
    row: Row,
    scored: Sequence[Scored],
    distances: Distances | None,
    retrain: Mapping[str, Areas],
    seed: Callable[[str], int],
    draws: int = DRAWS,
) -> Row:
    """Returns `row` with what attacks and distances measured, and each AUC's difference to
    Retrain's.

    **Arguments:**

    - `row`: what else is known of it, such as errors and times.
    - `retrain`: Retrain's areas by attack, of those attacks whose one attacker scored both rows.
    - `seed`: returns the seed of a difference's bootstrap, given the metric's name.

    Retrain's own row has no difference.
    """
    metrics = dict(row.metrics)
    for found in scored:
        metrics |= {metric_name(found.attack, name): measure for name, measure in found.metrics.items()}
        areas = found.retrain or retrain.get(found.attack)
        if areas is not None and row.method != RETRAIN:
            name = metric_name(found.attack, "auc_minus_retrain")
            theirs = Measure(areas.mean, models=min(areas.matrix.shape), areas=areas)
            metrics[name] = found.metrics["auc"].minus(theirs, seed=seed(name), draws=draws)
    notes = {*row.notes, *(note for found in scored for note in found.notes)}
    worst = {found.attack: found.worst_samples for found in scored}
    if distances is not None:
        metrics |= {name: Measure.of(value) for name, value in distances.metrics.items()}
        for name, between in distances.gaps.items():
            headline = f"{name}/{DIVERGENCES[name].headline}"
            metrics[headline] = Measure.of(between.value, between.interval, models=distances.models)
        worst |= distances.worst_samples
        notes |= set(distances.notes)
    return replace(
        row,
        metrics=metrics,
        attacks={found.attack: found.attacker for found in scored},
        worst_samples=worst,
        notes=tuple(sorted(notes)),
        distance_models=None if distances is None else distances.models,
    )
