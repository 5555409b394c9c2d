"""Checks of settings: what is allowed passes, everything else is one line with field, value and what is allowed."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from orchestrator.plan.objective import objective
from unlearn.core.checked import check_choice, check_integer, check_number
from unlearn.core.rounding import whole_part, within
from unlearn.methods.base import share_of
from unlearn.methods.kit.mask import largest

BOUNDS = [
    ({"above": 0}, "a number above 0", [1e-9, 3], [0, -1]),
    ({"least": 0}, "0 or more", [0, 2.5], [-1e-9]),
    ({"least": 0, "most": 1}, "0 to 1", [0, 1.0], [-0.1, 1.1]),
    ({"above": 0, "most": 1}, "a number above 0, at most 1", [1, 0.5], [0, 1.1]),
    ({"least": 0, "below": 1}, "0 or more, below 1", [0, 0.99], [1, -1]),
]


@pytest.mark.parametrize(("bounds", "words", "good", "bad"), BOUNDS)
def test_numbers(bounds: dict[str, float], words: str, good: list[float], bad: list[float]) -> None:
    for value in good:
        check_number("lr", value, **bounds)
    for value in (*bad, math.nan, math.inf, True, None, "fast", [0.5]):
        with pytest.raises(ValueError, match=rf"^lr: {re.escape(repr(value))} is not allowed; give {words}$"):
            check_number("lr", value, **bounds)


def test_integers() -> None:
    check_integer("k", 1, 1)
    check_integer("k", None, 1, optional=True)
    for value in (0, True, 1.0, "1", None):
        with pytest.raises(
            ValueError, match=rf"^k: {re.escape(repr(value))} is not allowed; give an integer of 1 or more$"
        ):
            check_integer("k", value, 1)


def test_choices() -> None:
    check_choice("early_stop", None, ("gap", None))
    for value in ("gab", 1, ["gap"], None):
        with pytest.raises(ValueError, match=r"^early_stop: .* is not allowed; allowed are gap, drop$"):
            check_choice("early_stop", value, ("gap", "drop"))


def test_rounding_neither_exceeds_a_bound_nor_costs_a_count() -> None:
    for hundredths in range(5, 101):
        assert within(100.0 * (hundredths / 100 - (hundredths - 5) / 100), 5.0)
        assert whole_part(hundredths / 100 * 100) == hundredths
    assert not within(5.01, 5.0)
    assert within(5.01, None)
    assert not within(float("nan"), 5.0)
    assert whole_part(28.99) == 28
    assert objective(0.1, 100 * (1 - 0.85) - 100 * (1 - 0.90), 5.0) == 0.1
    assert len(share_of(np.arange(100), 0.57, 0)) == 57
    assert int(largest({"a": torch.arange(100.0)}, 0.29)["a"].sum()) == 29
