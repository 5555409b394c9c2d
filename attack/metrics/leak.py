"""The share of a leak that is left after unlearning, with an interval over models.

leak left = (AUC − AUC of Retrain) ÷ (AUC of no unlearning − AUC of Retrain)

0 means that an attack tells the models from retrained ones no better than it tells Retrain's own.
1 means that nothing was forgotten. Below 0, the forget samples score lower than they should.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..library import load_special
from .students import added, quantile
from .t_intervals import TAIL

ROUNDS = 30  # of the search for a bound: its degrees of freedom depend on the bound itself


@dataclass(frozen=True)
class Ratio:
    """A ratio N ÷ D of two sums of means over models.

    **Arguments:** `parts`: one array `(units, 2)` for each group of independent models. The first
    column adds its mean to N and the second to D. Units are models, or parents of models.

    Tests and bounds are Fieller's. N − τD is a sum of means for every τ, so Student's t holds for
    it. The ratio itself has no variance. Degrees of freedom are Satterthwaite's.
    Source: Fieller, Journal of the Royal Statistical Society B 16 (1954).
    """

    parts: tuple[np.ndarray, ...]

    @property
    def numerator(self) -> float:
        return float(sum(part[:, 0].mean() for part in self.parts))

    @property
    def denominator(self) -> float:
        return float(sum(part[:, 1].mean() for part in self.parts))

    @property
    def value(self) -> float:
        return self.numerator / self.denominator if self.denominator else math.nan

    def p_above(self, tau: float) -> float:
        """Returns the one-sided p-value of "N − τD is not above 0"."""
        return _tail(*self._spread(1.0, -tau), self.numerator - tau * self.denominator)

    def p_below(self, tau: float) -> float:
        """Returns the one-sided p-value of "N − τD is not below 0"."""
        return _tail(*self._spread(1.0, -tau), tau * self.denominator - self.numerator)

    @property
    def p_denominator(self) -> float:
        """The one-sided p-value of "D is not above 0": small where there was something to
        forget."""
        return _tail(*self._spread(0.0, 1.0), self.denominator)

    def interval(self, tail: float = TAIL) -> tuple[float, float] | None:
        """Returns the values τ that no one-sided test at `tail` refuses; None where D may be 0."""
        if self.denominator <= 0.0 or self.p_denominator >= tail:
            return None
        low, high = (self._bound(sign, tail) for sign in (-1.0, 1.0))
        return None if low is None or high is None else (low, high)

    def _bound(self, sign: float, tail: float) -> float | None:
        covariance = np.sum([_covariance(part) for part in self.parts], axis=0)
        n, d, bound = self.numerator, self.denominator, self.value
        for _ in range(ROUNDS):
            error, freedom = self._spread(1.0, -bound)
            if error <= 1e-12:  # all models agree
                return bound
            square = quantile(freedom, 1.0 - tail) ** 2
            a = d**2 - square * covariance[1, 1]
            b = n * d - square * covariance[0, 1]
            c = n**2 - square * covariance[0, 0]
            if a <= 0.0:
                return None
            found = (b + sign * math.sqrt(max(b**2 - a * c, 0.0))) / a
            if abs(found - bound) < 1e-9:
                return found
            bound = found
        return bound

    def _spread(self, first: float, second: float) -> tuple[float, float]:
        """Returns the standard error of first·N + second·D, and its degrees of freedom."""
        weights = np.array([first, second])
        total, freedom = added([(float(weights @ _covariance(part) @ weights), len(part) - 1) for part in self.parts])
        return math.sqrt(max(total, 0.0)), freedom


@dataclass(frozen=True)
class Sides:
    """The AUCs of one attack, float64 `(models, retrained models)`, all against the same retrained
    models.

    **Arguments:**

    - `method`: of the models under test. `retrain`: of Retrain's own. `before`: of models never
        unlearned.
    - `retrain_before`: of Retrain's models under the attacker that `before` was scored by. None
        where one attacker scored all.
    - `parents`: for each model under test, the place among the models of `before` of the original
        that it was made from. A stranger has a number below 0. None where parents are not known.
    """

    method: np.ndarray
    retrain: np.ndarray
    before: np.ndarray
    retrain_before: np.ndarray | None = None
    parents: np.ndarray | None = None

    @property
    def models(self) -> int:
        """Independent models on the smallest side."""
        method = len(self.method) if self.parents is None else len(np.unique(self.parents))
        return min(method, len(self.retrain), len(self.before), self.method.shape[1])


def leak_left(sides: Sides) -> Ratio:
    """Returns the share of the leak that is left, as a ratio over models.

    The retrained models that all are compared with are shared, so their part of the spread mostly
    cancels. A model under test and its parent enter together.
    """
    reference = sides.retrain if sides.retrain_before is None else sides.retrain_before
    parts = [
        *_together(sides.method.mean(axis=1), sides.before.mean(axis=1), sides.parents),
        -np.stack([sides.retrain.mean(axis=1), reference.mean(axis=1)], axis=1),
    ]
    columns = np.stack(
        [
            side.mean(axis=0) - other.mean(axis=0)
            for side, other in ((sides.method, sides.retrain), (sides.before, reference))
        ],
        axis=1,
    )
    return Ratio((*parts, columns - columns.mean(axis=0)))


def change(
    method: np.ndarray,
    retrain: np.ndarray,
    unit: tuple[np.ndarray, np.ndarray],
    parents: np.ndarray | None = None,
) -> Ratio:
    """Returns how far `method` lies from `retrain`, in units of how far two numbers lay apart
    before.

    **Arguments:** one number a model, float64 `(models,)`. `unit`: the numbers of models never
    unlearned and of Retrain's, whose difference is the unit. `parents`: as of `Sides`.
    """
    before, theirs = unit
    return Ratio((*_together(method, before, parents), -np.stack([retrain, theirs], axis=1)))


def failing_models(method: np.ndarray, retrain: np.ndarray, before: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns for each model under test the p-value of "its own leak is within the tolerance".

    It is compared with Retrain's models by Student's t for one further model. Where Retrain's
    models do not differ at all, nothing is known of how far one may lie, and every p-value is 1.

    **Arguments:** the AUC of each model, float64 `(models,)`.
    """
    allowed = retrain.mean() + tolerance * (before.mean() - retrain.mean())
    spread = float(retrain.std(ddof=1)) * math.sqrt(1.0 + 1.0 / len(retrain))
    if spread == 0.0:
        return np.ones(len(method))
    return np.array([_tail(spread, len(retrain) - 1.0, float(value - allowed)) for value in method])


def models_needed(value: float, interval: tuple[float, float] | None, models: int, tolerance: float) -> int | None:
    """Returns how many models a side would likely decide, from how fast an interval narrows; None
    where none would.

    Either the whole interval comes to lie within ±tolerance, or above 0.
    """
    if interval is None or not math.isfinite(value):
        return None
    room = tolerance - abs(value)
    reach = max(interval[1] - value, value - interval[0])
    factors = [reach / room] if room > 0.0 else []
    factors += [(value - interval[0]) / value] if value > tolerance else []
    return math.ceil(models * max(1.0, min(factors)) ** 2) if factors else None


def _together(method: np.ndarray, before: np.ndarray, parents: np.ndarray | None) -> list[np.ndarray]:
    """Returns the parts of two groups of models, in one where all models of one are made from the
    other's."""
    if parents is None:
        return [np.stack([method, np.zeros_like(method)], axis=1), np.stack([np.zeros_like(before), before], axis=1)]
    families = np.unique(parents)
    means = np.array([method[parents == family].mean() for family in families])
    if len(families) == len(before) and families[0] >= 0:
        return [np.stack([means, before], axis=1)]
    return _together(means, before, None)


def _covariance(part: np.ndarray) -> np.ndarray:
    """Returns the covariance of the means of a part's two columns, float64 `(2, 2)`."""
    apart = part - part.mean(axis=0)
    found: np.ndarray = apart.T @ apart / (len(part) * (len(part) - 1))
    return found


def _tail(error: float, freedom: float, estimate: float) -> float:
    """Returns the chance of an estimate so far above 0, or further, where the truth is 0."""
    if error <= 0.0:
        return 0.0 if estimate > 0.0 else 0.5 if estimate == 0.0 else 1.0
    return float(load_special().stdtr(freedom, -estimate / error))
