"""Whether the interval of an AUC holds 0.5, and whether it is narrow enough for that to mean
something."""

from __future__ import annotations

CHANCE = 0.5
WIDEST = 0.2  # a wider interval says nothing about chance, though it holds 0.5
# Of two models a side the 95 % interval of an AUC holds the truth in 62 % of cases, of three in 89
# %.
LEAST_MODELS = 3


def includes_chance(low: float, high: float) -> bool:
    """Says whether the interval of an AUC holds 0.5."""
    return low <= CHANCE <= high


def narrow(low: float, high: float) -> bool:
    """Says whether the interval of an AUC is narrow enough for the 0.5 in it to mean something."""
    # such as [0.45, 0.65], whose difference rounds to more than 0.2
    return high - low <= WIDEST + 1e-9
