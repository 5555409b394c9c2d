"""A measured number with its interval, and the one way in which two of them are subtracted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .areas import DRAWS, Areas, areas_difference
from .t_intervals import independent_interval, mean_interval


@dataclass(frozen=True)
class Measure:
    """A number over models and its 95 % interval.

    **Arguments:**

    - `value`: None where it could not be measured.
    - `low`, `high`: the interval's ends, both None where there is no interval.
    - `by_model`: the value of each model, by the name of the trained model that it was made from.
        Two measures with the same names are subtracted model by model. Empty where it is not known.
    - `models`: how many models it was measured on, on the smaller side. None where it is not known.
    - `areas`: of an AUC, what it is the mean of. It is not part of `results.json`.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    by_model: Mapping[str, float] = field(default_factory=dict)
    models: int | None = None
    areas: Areas | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        value: float | None,
        interval: Sequence[float] | None = None,
        by_model: Mapping[str, float] | None = None,
        models: int | None = None,
        areas: Areas | None = None,
    ) -> Measure:
        """Returns a measure of an interval in one piece, None where there is none."""
        low, high = (None, None) if interval is None else (float(interval[0]), float(interval[1]))
        return cls(value, low, high, by_model or {}, models, areas)

    @property
    def known(self) -> bool:
        """Whether it could be measured."""
        return self.value is not None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the 95 % interval, None where there is none."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def minus(self, other: Measure | float, *, seed: int = 0, draws: int = DRAWS) -> Measure:
        """Returns the difference with its 95 % interval. The first rule that applies gives the
        interval:

        1. A plain number is certain: the interval only moves.
        2. Both were measured on the same models: Student's t over the differences model by model.
        3. Both are AUCs against the same retrained models: a bootstrap that resamples those
            together.
        4. Both have intervals: they are taken as independent (Zou and Donner, Statistics in
            Medicine 27, 2008). Where they are not, the interval is too wide rather than too narrow.

        Otherwise there is no interval, and no value where one of the two has none.

        **Arguments:** `seed`, `draws`: of the bootstrap.
        """
        if not isinstance(other, Measure):
            return self._moved(-other)
        if self.value is None or other.value is None:
            return Measure(None)
        sides = [side.models for side in (self, other) if side.models is not None]
        found = Measure(self.value - other.value, models=min(sides, default=None))
        if self.by_model and set(self.by_model) == set(other.by_model):
            apart = {name: value - other.by_model[name] for name, value in self.by_model.items()}
            bounds = mean_interval(list(apart.values())) if len(apart) > 1 else (None, None)
            return replace(found, low=bounds[0], high=bounds[1], by_model=apart)
        if self.areas is not None and other.areas is not None and self.areas.shares_negatives(other.areas):
            resampled = areas_difference(self.areas, other.areas, seed=seed, draws=draws)
            return found if resampled is None else replace(found, low=resampled[0], high=resampled[1])
        if self.interval is None or other.interval is None:
            return found
        low, high = independent_interval(self.value, self.interval, other.value, other.interval)
        return replace(found, low=low, high=high)

    def __sub__(self, other: Measure | float) -> Measure:
        """Returns the difference; see `minus`."""
        return self.minus(other)

    def __rsub__(self, other: float) -> Measure:
        """Returns a plain number less this."""
        return self.times(-1.0)._moved(other)

    def times(self, factor: float) -> Measure:
        """Returns the multiple, interval and models with it."""
        if self.value is None:
            return Measure(None)
        ends = None if self.interval is None else sorted(factor * end for end in self.interval)
        by_model = {name: factor * value for name, value in self.by_model.items()}
        return Measure.of(factor * self.value, ends, by_model, self.models)

    def text(self, digits: int = 2) -> str:
        """Returns `value [low, high]`."""
        if self.value is None:
            return "not measured"
        shown = f"{self.value:.{digits}f}"
        return shown if self.interval is None else f"{shown} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def _moved(self, by: float) -> Measure:
        if self.value is None:
            return Measure(None)
        ends = None if self.interval is None else [end + by for end in self.interval]
        return Measure.of(
            self.value + by, ends, {name: value + by for name, value in self.by_model.items()}, self.models
        )


def mean_measure(by_model: Mapping[str, float], least: float = -math.inf, most: float = math.inf) -> Measure:
    """Returns the mean over models with Student's interval, cut to what is possible, [`least`,
    `most`]."""
    values = list(by_model.values())
    if not values:
        return Measure(None)
    interval = mean_interval(values, least, most) if len(values) > 1 else None
    return Measure.of(float(np.mean(values)), interval, by_model, len(values))
