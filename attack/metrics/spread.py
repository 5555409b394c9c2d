"""Two kinds of luck in a method's number: that of the trained model, and that of unlearning it.

Each original is unlearned with several seeds. A one-way analysis of variance tells the spread
between originals from that between seeds. Source: Searle, Casella and McCulloch, Variance
Components (1992).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .measure import Measure, mean_measure


@dataclass(frozen=True)
class Spread:
    """How far values vary.

    **Arguments:**

    - `models`: standard deviation between originals, without the luck of the seed. `seeds`: between
        seeds of one original. Both None where there is nothing to tell them from.
    - `from_seeds`: the share of the squared width of the mean's interval that seeds bring. None
        where they are not told apart.
    - `worst`: the name of the model that lies farthest from the reference, with its value.
    """

    models: float | None
    seeds: float | None
    from_seeds: float | None
    worst: tuple[str, float] | None = None


def over_seeds(measures: Sequence[Measure]) -> Measure:
    """Returns the mean over unlearning seeds.

    Models are the units: the values of one original are averaged first, and Student's interval is
    over originals. It then holds both kinds of luck. What is not known model by model keeps the
    mean of the intervals' ends, which is too wide rather than too narrow.
    """
    known = [measure for measure in measures if measure.value is not None]
    if not known or len(known) < len(measures):
        return Measure(None)
    if len(known) == 1:
        return known[0]
    value = float(np.mean([measure.value for measure in known]))
    table = _table(known)
    if table:
        averaged = mean_measure({name: float(np.mean(values)) for name, values in table.items()})
        if averaged.value is not None and math.isclose(averaged.value, value, rel_tol=1e-9, abs_tol=1e-12):
            return averaged
    intervals = [measure.interval for measure in known if measure.interval is not None]
    by_model = {name: float(np.mean(values)) for name, values in table.items()}
    bounds = np.mean(intervals, axis=0).tolist() if len(intervals) == len(known) else None
    models = [measure.models for measure in known if measure.models is not None]
    return Measure.of(value, bounds, by_model, min(models, default=None))


def spread_of(measures: Sequence[Measure], reference: float | None) -> Spread:
    """Returns the spread of a method's values, one measure for each seed.

    **Arguments:** `reference`: what the worst model lies farthest from, such as Retrain's value.
    """
    table = _table([measure for measure in measures if measure.value is not None])
    worst = None
    if table and reference is not None:
        means = {name: float(np.mean(values)) for name, values in table.items()}
        farthest = max(means, key=lambda name: (abs(means[name] - reference), name))
        worst = (farthest, means[farthest])
    if len(table) < 2:
        return Spread(None, None, None, worst)
    values = np.asarray(list(table.values()), dtype=np.float64)
    if values.shape[1] < 2:
        return Spread(float(values.std(ddof=1)), None, None, worst)
    models, seeds = components(values)
    total = models**2 + seeds**2 / values.shape[1]
    return Spread(models, seeds, (seeds**2 / values.shape[1]) / total if total > 0.0 else None, worst)


def components(values: np.ndarray) -> tuple[float, float]:
    """Returns the standard deviations between models and between seeds of one model.

    **Arguments:** `values`: float64 `(models, seeds)`, at least two of each.

    Mean squares are set equal to what they are on average. A variance between models below 0 is 0.
    """
    models, seeds = values.shape
    means = values.mean(axis=1)
    within = float(((values - means[:, None]) ** 2).sum() / (models * (seeds - 1)))
    between = float(seeds * means.var(ddof=1))
    return math.sqrt(max(0.0, (between - within) / seeds)), math.sqrt(within)


def _table(measures: Sequence[Measure]) -> dict[str, list[float]]:
    """Returns the values of each model that all measures know, in the order of the measures."""
    if not measures:
        return {}
    tables: list[Mapping[str, float]] = [measure.by_model for measure in measures]
    return {name: [table[name] for table in tables] for name in tables[0] if all(name in table for table in tables)}
