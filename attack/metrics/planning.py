"""How many models a comparison needs: the power of the tests that a league makes.

A gap is what lies between the means of a method and of Retrain, for instance 0.03 of AUC.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..library import load_special
from .students import added, quantile

POWER = 0.8
LEVEL = 0.05
MOST_MODELS = 100_000
NODES = 64


@dataclass(frozen=True)
class Spreads:
    """Standard deviations between models.

    **Arguments:**

    - `method`: of a method's models. `retrain`: of retrained ones.
    - `correlation`: between two methods' values on the same original, in [−1, 1].
    """

    method: float
    retrain: float
    correlation: float = 0.0


def power_of_gap(gap: float, spreads: Spreads, models: int, level: float = LEVEL) -> float:
    """Returns how often the interval of method − Retrain leaves out 0, with `models` on each side.

    Welch's test with Satterthwaite's degrees of freedom.
    """
    variances = spreads.method**2 / models, spreads.retrain**2 / models
    return _power(gap, *added([(variance, models - 1) for variance in variances]), level)


def power_of_ranking(gap: float, spreads: Spreads, models: int, rivals: int, level: float = LEVEL) -> float:
    """Returns a lower bound on how often the one method that equals Retrain is called the winner.

    Each of `rivals` others lies `gap` away. Every pair needs two tests (`ranks.nearer`). The level
    is divided by the number of pairs among all of them, which Holm never exceeds. What the tests
    miss is added up, so the true rate is at least this.
    """
    pairs = rivals * (rivals + 1) // 2
    each = level / pairs
    apart = 2.0 * spreads.method**2 * (1.0 - spreads.correlation) / models
    both = 2.0 * spreads.method**2 * (1.0 + spreads.correlation) / models
    whole = added([(variance, models - 1) for variance in (both, 4.0 * spreads.retrain**2 / models)])
    missed = 1.0 - _power(gap, apart, models - 1.0, each)
    missed += 1.0 - _power(gap, *whole, each)
    return max(0.0, 1.0 - rivals * missed)


def models_for_gap(gap: float, spreads: Spreads, power: float = POWER, level: float = LEVEL) -> int:
    """Returns the least number of models on each side whose `power_of_gap` reaches `power`.

    **Raises:** `ValueError` where the gap is not above 0.
    """
    _check(gap, power)
    return _least(lambda models: power_of_gap(gap, spreads, models, level) >= power)


def models_for_ranking(gap: float, spreads: Spreads, rivals: int, power: float = POWER, level: float = LEVEL) -> int:
    """Returns the least number of models whose `power_of_ranking` reaches `power`; raises as
    `models_for_gap`."""
    _check(gap, power)
    return _least(lambda models: power_of_ranking(gap, spreads, models, rivals, level) >= power)


def _check(gap: float, power: float) -> None:
    if not 0.0 < gap < math.inf:
        raise ValueError(f"gap: {gap!r} is not allowed; give a number above 0")
    if not 0.0 < power < 1.0:
        raise ValueError(f"power: {power!r} is not allowed; give a share between 0 and 1")


def _least(enough: Callable[[int], bool]) -> int:
    """Returns the least number of models, 2 or more, that is enough; more never are too few."""
    high = 2
    while not enough(high):
        high *= 2
        if high > MOST_MODELS:
            raise ValueError(f"gap: more than {MOST_MODELS:,} models are needed; ask for a larger one")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if middle >= 2 and enough(middle) else (middle, high)
    return high


def _power(gap: float, variance: float, freedom: float, level: float) -> float:
    """Returns the power of a two-sided t-test for a mean of `gap` with this variance.

    The normal part is integrated over the quantiles of the estimated variance. SciPy's noncentral t
    returns NaN for some large shifts.
    """
    if variance <= 0.0:
        return 1.0
    special = load_special()
    critical = quantile(freedom, 1.0 - level / 2.0)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    scale = np.sqrt(2.0 * special.gammaincinv(freedom / 2.0, (nodes + 1.0) / 2.0) / freedom)
    shift = gap / math.sqrt(variance)
    beyond = special.ndtr(shift - critical * scale) + special.ndtr(-shift - critical * scale)
    return float((weights * beyond).sum() / 2.0)
