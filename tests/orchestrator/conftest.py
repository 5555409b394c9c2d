"""A recipe small enough to run whole in seconds."""

from __future__ import annotations

import copy
from typing import Any

import pytest

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "dataset": {"source": "digits", "limit": {"train": 200, "test": 100}},
    "scenario": {"kind": "samples", "per_class": 5},
    "model": {"name": "small_vgg", "width": 0.0625},
    "training": {"lr": 0.05, "final_lr": 0.005, "batch_size": 32, "epochs": 4, "augment": None},
    "shadows": {"originals": 5, "retrained": 5, "split": [2, 1, 2]},
    "methods": [
        {"name": "pgu", "gamma": {"grid": [0.9, 0.5]}, "lr": 0.01, "final_lr": 0.005, "epochs": 3, "early_stop": None},
        {"name": "eu_k", "k": 1},
    ],
    "tracking": {"uri": None},
}


@pytest.fixture
def tiny() -> dict[str, Any]:
    """A fresh copy of the tiny recipe's document."""
    return copy.deepcopy(TINY)
