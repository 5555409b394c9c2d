"""How far a divergence moves by chance: models of both groups are relabelled.

What is left is what two groups of one kind show of each other, with as many models. It stands where
an AUC has 0.5. The interval says how far chance alone moves a value. Of groups that lie far apart
it is a rough one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .base import PerSampleDivergence

DRAWS = 99
# a draw looks at so many outputs at most, which makes its spread too wide rather than too narrow
MOST_VALUES = 50_000
REACH = 1.96  # standard deviations of a 95 % interval


@dataclass(frozen=True)
class Gap:
    """What a divergence says of a row beside chance.

    **Arguments:** `value`: its headline. `chance`: the mean over relabelled groups. `spread`: their
    standard deviation.
    """

    value: float
    chance: float
    spread: float

    @property
    def interval(self) -> tuple[float, float]:
        """Where chance moves the value in 95 % of cases; no divergence is below 0."""
        return max(0.0, self.value - REACH * self.spread), self.value + REACH * self.spread

    @property
    def sees(self) -> bool:
        """Whether the groups differ by more than chance explains."""
        return abs(self.value - self.chance) > REACH * self.spread

    def left(self, before: Gap) -> tuple[float, float, float]:
        """Returns the share of the gap before unlearning that is left, and its 95 % interval.

        Both gaps are taken as independent, to first order.
        """
        unit = before.value - before.chance
        share = (self.value - self.chance) / unit
        reach = REACH * math.hypot(self.spread, share * before.spread) / abs(unit)
        return share, share - reach, share + reach

    @classmethod
    def from_json(cls, document: Mapping[str, float]) -> Gap:
        """Returns what `vars` gives of a gap."""
        return cls(**document)


def gap(divergence: PerSampleDivergence, unlearned: np.ndarray, retrained: np.ndarray, seed: int = 0) -> Gap | None:
    """Returns the gap between two groups of models; None where the divergence has no number for it.

    **Arguments:** φ, float64 `(models, S)`, at least two models on each side.
    """
    value = divergence.headline_of(unlearned, retrained)
    if value is None or not np.isfinite(value):
        return None
    generator = np.random.default_rng(seed)
    everyone = np.concatenate([unlearned, retrained])
    everyone = everyone[:, :: -(-everyone.size // MOST_VALUES)]
    drawn = []
    for _ in range(DRAWS):
        order = generator.permutation(len(everyone))
        mine, theirs = order[: len(unlearned)], order[len(unlearned) :]
        drawn.append(divergence.headline_of(everyone[mine], everyone[theirs]))
    values = np.asarray(drawn, dtype=np.float64)
    return Gap(value, float(values.mean()), float(values.std(ddof=1)))
