"""What a recipe's distributed attacker is asked of the cluster: how many workers, and the memory of each."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import orchestrator.engine.attacker.units
from orchestrator.engine.attacker.units import DistributedAttackers
from orchestrator.engine.ray.placement import place
from orchestrator.recipe.sections import Resources
from orchestrator.store import LocalStore

ONE_GPU = {"CPU": 16.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("options", "built", "workers", "memory"),
    [
        ({"gpus_per_unit": 0.5}, True, 1, None),
        ({"gpus_per_unit": 0.5}, False, 2, None),
        ({"attacker_memory_gib": 0.25}, True, 1, 2.0**28),
    ],
)
def test_the_attacker_is_asked_for_by_gpus_and_with_the_memory_of_the_recipe(
    options: dict[str, Any],
    built: bool,
    workers: int,
    memory: float | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(orchestrator.engine.attacker.units, "knows_gpus", lambda: built)
    monkeypatch.setattr(
        orchestrator.engine.attacker.units, "fit_all_distributed", lambda *_, **more: asked.append(more)
    )
    resources = Resources(**options)
    attackers = DistributedAttackers(LocalStore(tmp_path), resources, place([ONE_GPU], resources), tmp_path)
    attackers.fit([], [SimpleNamespace(key="k")], [None], lambda outcome: pytest.fail(str(outcome)))  # type: ignore[list-item]
    [found] = asked
    assert (found["num_workers"], found["memory_per_worker"]) == (workers, memory)
