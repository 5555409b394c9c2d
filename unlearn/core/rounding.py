"""Comparisons and counts of numbers that are whole but for the rounding of floats."""

from __future__ import annotations

import math

_SLACK = 1e-9


def within(value: float, bound: float | None) -> bool:
    """Whether `value` is at most `bound`, but for rounding: 100·(0.90 − 0.85) is within 5.

    None is no bound. What is not a number is within none.
    """
    return bound is None or value <= bound + _SLACK


def whole_part(value: float) -> int:
    """Returns ⌊value⌋, where what lacks only rounding counts as whole: 0.29·100 is 29."""
    return math.floor(value + _SLACK)
