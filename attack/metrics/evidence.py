"""What a verdict rests on: attacks, single samples, unseen images. Arrays only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .leak import Ratio, Sides, change, leak_left
from .students import holm
from .t_intervals import TAIL
from .traces import Traces

LEAST_MODELS = 5  # three a side accuse exact unlearning in a quarter of cases
TOLERANCE = 0.25
TAIL_FPR = 0.01


@dataclass(frozen=True)
class Rule:
    """What counts as forgotten.

    **Arguments:**

    - `tolerance`: the share of the leak that may be left, above 0 and below 1.
    - `tail_fpr`: the false-positive rate of the search for single samples. The share of samples
        found may exceed the share that chance finds by as much.
    """

    tolerance: float = TOLERANCE
    tail_fpr: float = TAIL_FPR


@dataclass(frozen=True)
class AttackEvidence:
    """What one attack measured of a row. `directed`: a high score means "trained on"."""

    attack: str
    sides: Sides
    directed: bool = True

    @cached_property
    def ratio(self) -> Ratio:
        """The share of the leak that is left."""
        return leak_left(self.sides)

    @property
    def sees(self) -> bool:
        """Whether the attack tells models that were never unlearned from retrained ones."""
        return self.sides.models > 1 and self.ratio.p_denominator < TAIL


@dataclass(frozen=True)
class Confidence:
    """Mean φ of each model, float64 `(models,)`: on forget samples and on unseen images."""

    forget: np.ndarray
    unseen: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """By how much forget samples stand out against unseen images."""
        return self.forget - self.unseen


@dataclass(frozen=True)
class UnseenEvidence:
    """Forget samples beside unseen images under the same models. `parents`: as of `Sides`.

    Both ratios are in units of the gap that unlearning should close.
    """

    method: Confidence
    retrain: Confidence
    before: Confidence
    parents: np.ndarray | None = None

    @cached_property
    def gap(self) -> Ratio:
        """How far forget samples stand out against unseen images: 0 as for Retrain, 1 as before."""
        return change(self.method.gap, self.retrain.gap, self._unit, self.parents)

    @cached_property
    def shift(self) -> Ratio:
        """How far unseen images moved from where Retrain has them; below 0 they lost confidence."""
        return change(self.method.unseen, self.retrain.unseen, self._unit, self.parents)

    @property
    def sees(self) -> bool:
        """Whether forget samples stood out against unseen images before."""
        fewest = min(len(side.forget) for side in (self.method, self.retrain, self.before))
        return fewest > 1 and self.gap.p_denominator < TAIL

    @property
    def _unit(self) -> tuple[np.ndarray, np.ndarray]:
        return self.before.gap, self.retrain.gap


@dataclass(frozen=True)
class GapLeft:
    """The share of a divergence's gap that is left: 0 as by chance, 1 as before unlearning.

    `divergence`: such as `klom`. `low`, `high`: the ends of its 95 % interval.
    """

    divergence: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evidence:
    """All that the verdict on a row rests on. What was not measured is None.

    **Arguments:**

    - `traces`: of the row's samples, against all retrained models.
    - `constant`: the outputs of every model under test are the same for all images.
    - `reference`: the row is Retrain's own, or that of models never unlearned: no unlearning to
        judge.
    - `bent`: attacks that tell Retrain's models from other retrained ones.
    - `gaps`: of divergences that saw something before unlearning.
    """

    attacks: Sequence[AttackEvidence]
    traces: Traces | None = None
    unseen: UnseenEvidence | None = None
    constant: bool = False
    reference: bool = False
    bent: tuple[str, ...] = ()
    gaps: tuple[GapLeft, ...] = ()

    @property
    def models(self) -> int:
        """Independent models on the smallest side of any attack."""
        return min((found.sides.models for found in self.attacks), default=0)


def bent_yardstick(attacks: Sequence[AttackEvidence]) -> tuple[str, ...]:
    """Returns the attacks that tell Retrain's models from other retrained ones, at a family-wise
    level of 1 %."""
    known = [found for found in attacks if found.sides.models > 1]
    ratios = [leak_left(at_chance(found.sides)) for found in known]
    p_values = holm([2.0 * min(ratio.p_above(0.0), ratio.p_below(0.0)) for ratio in ratios])
    return tuple(found.attack for found, p in zip(known, p_values, strict=True) if p < 0.01)


def at_chance(sides: Sides) -> Sides:
    """Returns Retrain's own models as the ones under test, held against an AUC of 0.5."""
    chance = np.full_like(sides.retrain, 0.5)
    return Sides(sides.retrain, chance, sides.before, chance)
