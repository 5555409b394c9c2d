"""What a plan says of cost: learnt from the store, from other experiments too, and unknown where nothing is known."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.commands.cli import main
from orchestrator.experiments.estimate import estimate, simulate, total_seconds
from orchestrator.plan.data import load_data
from orchestrator.plan.plan import make_plan
from orchestrator.plan.rows import Plan
from orchestrator.plan.specs import PlainSpec
from orchestrator.plan.stages import STAGES
from orchestrator.plan.units import Unit
from orchestrator.recipe.recipe import check_recipe
from orchestrator.store import LocalStore
from orchestrator.work.commit import commit_unit

PACE = {
    "train": 0.002,
    "moments": 1.5,
    "basis": 2.5,
    "unlearn": 0.01,
    "outputs": 0.003,
    "attack": 0.5,
    "score": 0.25,
    "distance": 0.01,
    "unseen": 0.002,
    "traces": 0.01,
}


def plan_of(document: dict[str, Any]) -> tuple[Plan, str]:
    recipe = check_recipe(copy.deepcopy(document))
    data = load_data(recipe, None)
    return make_plan(recipe, data), data.digest


def seconds_of(unit: Unit) -> float:
    if unit.kind == "attack":
        return PACE["attack"] * len(unit.spec.outputs)
    if unit.kind == "score":
        return PACE["score"] * sum(len(getattr(unit.spec, name)) for name in ("fit", "positive", "negative"))
    if unit.kind == "traces":
        return PACE["traces"] * (len(unit.spec.models) + len(unit.spec.retrained))
    if unit.kind == "distance":
        return PACE["distance"] * sum(
            len(getattr(unit.spec, name)) for name in ("tested", "negative", "models", "retrained")
        )
    return PACE[unit.kind] * unit.cost


def remember(store: LocalStore, units: list[Unit]) -> None:
    """Commits units as if each had taken what `PACE` says."""
    for unit in units:
        with store.attempt(unit.key) as attempt:
            model = next(
                (u.spec.model.to_json() for u in [unit, *unit.ancestors().values()] if u.kind == "train"), None
            )
            meta = {"model": model} if unit.kind in ("train", "unlearn") else {}
            commit_unit(unit, attempt, meta, seconds_of(unit))


def everything(plan: Plan) -> list[Unit]:
    units: dict[str, Unit] = {}
    for unit in plan.units():
        units |= {**unit.ancestors(), unit.key: unit}
    return list(units.values())


def test_nothing_is_known_of_an_empty_store(tiny: dict[str, Any], tmp_path: Path) -> None:
    plan, digest = plan_of(tiny)
    for store in (None, LocalStore(tmp_path)):
        found = estimate(plan, store, digest, slots=2)
        assert all(value is None for value in found["total"].values())
        for counts in found["stages"].values():
            assert counts["missing"] == counts["units"] > 0
            assert counts["unit_seconds_left"] is None
            assert counts["units_unknown"] >= counts["missing"]


def test_a_finished_experiment_costs_nothing_more(tiny: dict[str, Any], tmp_path: Path) -> None:
    plan, digest = plan_of(tiny)
    store = LocalStore(tmp_path)
    remember(store, everything(plan))
    found = estimate(plan, store, digest, slots=2)
    assert all(value == 0.0 for value in found["total"].values())


def test_half_done_the_rest_is_scaled_by_cost(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["resources"] = {"cpus_per_unit": 2, "gpus_per_unit": 0.5}
    plan, digest = plan_of(tiny)
    store = LocalStore(tmp_path)
    originals = [unit for unit in plan.stages["train"] if unit.label.role == "original"]
    remember(store, originals)
    found = estimate(plan, store, digest, slots=2)
    train = found["stages"]["train"]
    left = [unit for unit in plan.stages["train"] if unit not in originals]
    work = sum(seconds_of(unit) for unit in left)
    assert (train["stored"], train["missing"], train["units_unknown"]) == (5, 7, 0)
    assert train["unit_seconds_left"] == pytest.approx(work)
    assert train["cpu_hours_left"] == pytest.approx(2 * work / 3600)
    assert train["gpu_hours_left"] == pytest.approx(0.5 * work / 3600)
    assert train["wall_seconds_left"] == pytest.approx(4 * seconds_of(left[0])), "seven equal units on two slots"
    assert found["stages"]["unlearn"]["unit_seconds_left"] is None
    assert found["total"]["unit_seconds_left"] is None, "a part that is unknown is not taken for 0"


def test_another_experiment_in_a_shared_store_tells_the_pace(tiny: dict[str, Any], tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    remember(store, everything(plan_of(tiny)[0]))
    other = copy.deepcopy(tiny)
    other["seed"] = 99
    other["training"]["epochs"] = 40  # ten times as long
    plan, digest = plan_of(other)
    found = estimate(plan, store, digest, slots=4)
    assert found["learnt_from"]["own_units"] == 0
    assert found["learnt_from"]["units_of_others"] > 0
    work = sum(seconds_of(unit) for unit in plan.stages["train"])
    assert found["stages"]["train"]["unit_seconds_left"] == pytest.approx(work)
    needed = {
        n.key: n for u in plan.stages["unlearn"] for n in u.ancestors().values() if n.kind in ("moments", "basis")
    }
    unlearn = sum(seconds_of(unit) for unit in (*plan.stages["unlearn"], *needed.values()))
    assert found["stages"]["unlearn"]["unit_seconds_left"] == pytest.approx(unlearn), (
        "with moments and bases, once each"
    )
    walls = [counts["wall_seconds_left"] for counts in found["stages"].values()]
    assert max(walls) < found["total"]["wall_seconds_left"] <= sum(walls), "stages overlap"
    wider = copy.deepcopy(other)
    wider["model"]["width"] = 0.125
    plan, digest = plan_of(wider)
    assert estimate(plan, store, digest, slots=4)["stages"]["train"]["unit_seconds_left"] is None, (
        "another model is not alike"
    )


def test_measures_cost_more_with_more_models(tiny: dict[str, Any], tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    remember(store, everything(plan_of(tiny)[0]))
    tiny["shadows"] = {"originals": 8, "retrained": 8, "split": [2, 1, 5]}
    plan, digest = plan_of(tiny)
    units = plan.stages["score"]
    assert {unit.kind for unit in units} == {"score", "distance", "traces"}
    found = estimate(plan, store, digest, slots=2)["stages"]["score"]
    assert found["unit_seconds_left"] == pytest.approx(sum(seconds_of(unit) for unit in units))


def test_the_simulation_follows_the_scheduler() -> None:
    units = [Unit(PlainSpec("sleep", {"i": i}), f"u{i:03d}") for i in range(100)]
    seconds = {unit.key: 1.0 for unit in units}
    assert simulate(units, seconds, 1) == pytest.approx(100.0)
    assert simulate(units, seconds, 100) == 1.0
    assert simulate(units, seconds, 1000) == 1.0
    assert simulate(units, seconds, 10) == pytest.approx(10.0), "workers pull: the finish is even"
    assert simulate(units, seconds, 10, per_unit=0.5) == pytest.approx(15.0)
    assert simulate([], {}, 4) == 0.0
    chain = [*units, Unit(PlainSpec("sleep", {"i": "last"}), "last", needs=(units[7],))]
    seconds[chain[-1].key] = 3.0
    assert simulate(chain, seconds, 100) == 4.0, "it begins when what it needs is made, not when all are"
    assert total_seconds([1.0] * 10 + [50.0], 5) == 50.0


def test_the_command_says_it(tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, _ = plan_of(tiny)
    remember(LocalStore(tmp_path / "store"), everything(plan)[:-1])
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny))
    arguments = ["plan", str(recipe), "--store", str(tmp_path / "store"), "--slots", "3"]
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["slots"] == 3
    assert set(document["stages"]) == set(STAGES)
    assert document["total"]["unit_seconds_left"] > 0
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "with 3 units at once" in text
    assert "CPU-hours" in text
