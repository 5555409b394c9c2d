"""Comparisons and counts of numbers that are whole but for the rounding of floats."""

from __future__ import annotations

import math

_SLACK = 1e-9


def exceeds(value: float, bound: float) -> bool:
    """Whether `value` is above `bound` by more than rounding: 100·(0.90 − 0.85) is not above 5.

    What is not a number exceeds every bound.
    """
    return not value <= bound + _SLACK


def whole_part(value: float) -> int:
    """Returns ⌊value⌋, where what lacks only rounding counts as whole: 0.29·100 is 29."""
    return math.floor(value + _SLACK)
