"""Intervals over models by Student's t: of a mean, of a share, and of what follows from a share on
each side.

No bootstrap over few models reaches beyond the models that it has. Of three it gives, at its
widest, the least to the greatest of them, and that holds their mean in 75 % of cases, not 95. What
is a mean over models needs no bootstrap: these are closed forms. How often each interval of this
project holds the truth is measured by `benchmarks/attack/coverage.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..library import load_special
from .students import added, quantile

LEVEL = 0.95
TAIL = (1.0 - LEVEL) / 2.0


@dataclass(frozen=True)
class Shares:
    """How many of each model's rows were hit: `hits` and `rows`, float64 `(models,)`, both counts
    of rows."""

    hits: np.ndarray
    rows: np.ndarray

    @cached_property
    def value(self) -> float:
        """The share of all rows that were hit."""
        return float(self.hits.sum() / self.rows.sum())

    @cached_property
    def variance(self) -> float:
        """Of `value`, from the differences between models; a ratio's, linearised, where models have
        not equally many rows."""
        apart = (self.hits - self.value * self.rows) / self.rows.mean()
        return float((apart**2).sum() / (len(apart) * (len(apart) - 1)))


def mean_interval(
    values: Sequence[float] | np.ndarray, least: float = -math.inf, most: float = math.inf
) -> list[float]:
    """Returns the 95 % interval of the mean of `values`, one a model, cut to what is possible,
    [`least`, `most`]."""
    array = np.asarray(values, dtype=np.float64)
    reach = quantile(len(array) - 1, 1.0 - TAIL) * float(array.std(ddof=1)) / math.sqrt(len(array))
    return [max(least, float(array.mean()) - reach), min(most, float(array.mean()) + reach)]


def share_interval(shares: Shares) -> list[float]:
    """Returns the 95 % interval of a share, that of Clopper and Pearson for as many rows as the
    models are worth.

    Rows of one model are correlated, so they are worth fewer. How many follows from the spread
    between models, with Student's t for how few those are. Where models do not differ at all, as
    where none has a hit, rows are taken for independent. The interval of 0 hits is not [0, 0].
    Source: Korn and Graubard, Survey Methodology 24 (1998), 193-201.
    """
    value, rows = shares.value, float(shares.rows.sum())
    spread = shares.variance
    worth = value * (1.0 - value) / spread if spread > 0.0 and 0.0 < value < 1.0 else rows
    worth *= (quantile(rows - 1, 1.0 - TAIL) / quantile(len(shares.rows) - 1, 1.0 - TAIL)) ** 2
    hits, misses = value * worth, (1.0 - value) * worth
    low = float(load_special().betaincinv(hits, misses + 1.0, TAIL)) if hits > 0.0 else 0.0
    high = float(load_special().betaincinv(hits + 1.0, misses, 1.0 - TAIL)) if misses > 0.0 else 1.0
    return [low, high]


def combined_interval(
    of: Callable[[float, float], float], slopes: tuple[float, float], members: Shares, others: Shares
) -> list[float]:
    """Returns the 95 % interval of a quantity in [0, 1] that rises with members' share and falls
    with that of others.

    Its variance is the sum of what both sides' models add to it, to first order. The interval is
    taken on the logit scale, so that it keeps within [0, 1]. It has the degrees of freedom of
    Satterthwaite (Biometrics Bulletin 2, 1946). As Obuchowski (Biometrics 53, 1997) does for
    clustered ROC data. At 0 and 1 there is no logit: then from what both shares may be.

    **Arguments:** `of`: returns the quantity of both shares. `slopes`: its derivatives by each.
    """
    value = of(members.value, others.value)
    sides = zip(slopes, (members, others), strict=True)
    variance, freedom = added([(slope**2 * side.variance, len(side.rows) - 1) for slope, side in sides])
    if not 0.0 < value < 1.0 or variance <= 0.0:
        mine, theirs = share_interval(members), share_interval(others)
        return [of(mine[0], theirs[1]), of(mine[1], theirs[0])]
    reach = quantile(freedom, 1.0 - TAIL) * math.sqrt(variance) / (value * (1.0 - value))
    middle = math.log(value / (1.0 - value))
    return [_expit(middle - reach), _expit(middle + reach)]


def _expit(value: float) -> float:
    return 0.5 * (1.0 + math.tanh(value / 2.0))


def independent_interval(
    first: float, first_bounds: Sequence[float], second: float, second_bounds: Sequence[float]
) -> tuple[float, float]:
    """Returns the 95 % interval of first − second from the intervals of both, taken as independent.

    This is the "method of variance estimates recovery". It keeps skewed intervals skewed, and an
    interval of a rate of 0 does not shrink to a point. Source: Zou and Donner, Statistics in
    Medicine 27 (2008).
    """
    apart = first - second
    below = math.hypot(first - first_bounds[0], second_bounds[1] - second)
    above = math.hypot(first_bounds[1] - first, second - second_bounds[0])
    return apart - below, apart + above
