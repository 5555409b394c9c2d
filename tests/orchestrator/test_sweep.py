"""Sweeps expand to the points that a person would write down by hand."""

from __future__ import annotations

import pytest

from orchestrator.recipe import sweep


def test_grid_multiplies_and_keeps_the_order_of_the_recipe() -> None:
    points = sweep.expand({"gamma": {"grid": [0.9, 0.8]}, "lr": 0.1, "epochs": {"grid": [1, 2]}}, seed=0, index=0)
    assert points == [
        {"gamma": 0.9, "lr": 0.1, "epochs": 1},
        {"gamma": 0.9, "lr": 0.1, "epochs": 2},
        {"gamma": 0.8, "lr": 0.1, "epochs": 1},
        {"gamma": 0.8, "lr": 0.1, "epochs": 2},
    ]
    assert list(points[0]) == ["gamma", "lr", "epochs"]


def test_zip_advances_together_and_multiplies_with_grid() -> None:
    points = sweep.expand({"a": {"zip": [1, 2]}, "b": {"zip": [10, 20]}, "c": {"grid": [0, 1]}}, seed=0, index=0)
    assert [(p["a"], p["b"], p["c"]) for p in points] == [(1, 10, 0), (2, 20, 0), (1, 10, 1), (2, 20, 1)]


def test_random_draws_depend_on_the_seed_and_the_place_only() -> None:
    settings = {"gamma": {"uniform": [0.5, 0.9]}, "lr": {"loguniform": [1e-4, 1e-1]}, "samples": 50}
    first = sweep.expand(settings, seed=1, index=0)
    assert first == sweep.expand(settings, seed=1, index=0)
    assert first != sweep.expand(settings, seed=2, index=0)
    assert first != sweep.expand(settings, seed=1, index=1)
    assert len(first) == 50
    assert all(0.5 <= p["gamma"] <= 0.9 and 1e-4 <= p["lr"] <= 1e-1 for p in first)
    # Half of a logarithmic range lies below its geometric middle; a uniform draw would put 3 % there.
    assert 10 <= sum(p["lr"] < 10**-2.5 for p in first) <= 40
    assert "samples" not in first[0]


def test_a_per_layer_mapping_is_not_a_sweep() -> None:
    assert sweep.expand({"gamma": {"conv1": 0.95, "fc": 0.9}}, 0, 0) == [{"gamma": {"conv1": 0.95, "fc": 0.9}}]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gamma": {"grid": []}}, "methods.0.gamma.grid"),
        ({"gamma": {"uniform": [0.9, 0.5]}}, "low < high"),
        ({"gamma": {"loguniform": [0, 1]}}, "0 < low"),
        ({"a": {"zip": [1, 2]}, "b": {"zip": [1]}}, "equal lengths"),
        ({"gamma": {"grid": 0.9}}, "a sweep needs a list"),
        ({"samples": 0}, "methods.0.samples"),
        ({"samples": 300, "gamma": {"grid": [0.9]}}, "methods.0.samples: 300: counts the draws of uniform"),
    ],
)
def test_a_malformed_sweep_is_named(settings: dict, words: str) -> None:
    assert words in "\n".join(map(str, sweep.faults(settings, "methods.0")))
