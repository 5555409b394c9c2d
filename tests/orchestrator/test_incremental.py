"""Incremental unlearning: resumed step by step, stopped by its criterion, its running moments bounded and healed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.base.errors import RecipeError
from orchestrator.plan.data import load_data
from orchestrator.plan.plan import make_plan
from orchestrator.plan.specs import PlainSpec
from orchestrator.plan.steps import grouped_steps
from orchestrator.plan.units import Unit
from orchestrator.recipe.recipe import check_recipe
from orchestrator.store import LocalStore
from orchestrator.work.context import Context
from orchestrator.work.execute import execute
from orchestrator.work.incremental import failing_point
from unlearn.methods.pgu.pgu import PGU
from unlearn.moments.fisher import fisher_diagonal

METHOD = {
    "name": "pgu_incremental",
    "gamma": 0.8,
    "lr": 0.1,
    "final_lr": 0.05,
    "epochs": 2,
    "batch_size": 10,
    "early_stop": None,
}


@pytest.fixture
def stress(tiny: dict[str, Any]) -> dict[str, Any]:
    tiny["scenario"] = {"kind": "incremental", "step": 1, "steps": 6}
    tiny["shadows"] = {"originals": 1, "retrained": 0, "split": [0, 0, 1]}
    tiny["attacks"] = []
    tiny["methods"] = [dict(METHOD)]
    return tiny


def planned(document: dict[str, Any], folder: Path) -> tuple[Unit, Context]:
    recipe = check_recipe(document)
    store = LocalStore(folder / "store")
    data = load_data(recipe, store)
    (unit,) = make_plan(recipe, data).stages["unlearn"]
    return unit, Context(store, data)


def steps_of(unit: Unit, context: Context) -> list[dict[str, Any]]:
    outcome = execute(unit, context)
    assert not outcome.failed, outcome.traceback
    return [{k: v for k, v in row.items() if k != "seconds"} for row in context.store.meta(unit.key)["steps"]]


def stored(context: Context, kind: str) -> list[str]:
    return [key for key in list(context.store.keys()) if context.store.meta(key)["kind"] == kind]


def model_bytes(unit: Unit, context: Context) -> bytes:
    return context.store.fetch(unit.key, "model.safetensors").read_bytes()


class Counted:
    """PGU that counts its runs, and is interrupted in the one that it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, interrupt: int | None = None):
        self.runs = 0
        original = PGU.unlearn

        def unlearn(method: PGU, *args: Any, **kwargs: Any) -> Any:
            self.runs += 1
            if self.runs == interrupt:
                raise KeyboardInterrupt
            return original(method, *args, **kwargs)

        monkeypatch.setattr(PGU, "unlearn", unlearn)


def test_an_interrupted_chain_goes_on_where_it_was(
    stress: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit, context = planned(stress, tmp_path / "whole")
    whole = steps_of(unit, context)
    assert [row["per_class"] for row in whole] == [0, 1, 2, 3, 4, 5, 6]
    assert whole[-1]["forgotten"] == 60
    again, resumed = planned(stress, tmp_path / "cut")
    with monkeypatch.context() as patch:
        Counted(patch, interrupt=4)
        with pytest.raises(KeyboardInterrupt):
            execute(again, resumed)
    assert len(stored(resumed, "step")) == 3
    assert len(stored(resumed, "running")) == 2, "older moments go as soon as newer ones are safe"
    with monkeypatch.context() as patch:
        counted = Counted(patch)
        fresh = Context(resumed.store, resumed.data)
        assert steps_of(again, fresh) == whole
    assert counted.runs == 3, "finished steps are not made again"
    assert model_bytes(again, fresh) == model_bytes(unit, context)
    assert stored(fresh, "running") == [], "nothing of them is left at the end"


@pytest.mark.medium
@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_running_moments_are_carried_on_from_older_ones(
    stress: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: int
) -> None:
    unit, context = planned(stress, tmp_path / "whole")
    steps_of(unit, context)
    again, cut = planned(stress, tmp_path / "cut")
    with monkeypatch.context() as patch:
        Counted(patch, interrupt=4)
        with pytest.raises(KeyboardInterrupt):
            execute(again, cut)
    newest_first = sorted(stored(cut, "running"), key=lambda key: -len(cut.store.meta(key)["spec"]["steps"]))
    for key in newest_first[:damaged]:
        path = next((tmp_path / "cut" / "store").rglob(f"*{key}*/moments.safetensors"))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    fresh = Context(cut.store, cut.data)
    steps_of(again, fresh)
    assert model_bytes(again, fresh) == model_bytes(unit, context)


def test_a_failure_criterion_ends_the_chain(stress: dict[str, Any], tmp_path: Path) -> None:
    stress["training"]["epochs"] = 20
    harsh = {**METHOD, "lr": 0.05, "final_lr": 0.05, "gamma": 0.1}
    stress["methods"] = [{**harsh, "fail_points": 5.0}]
    unit, context = planned(stress, tmp_path)
    rows = steps_of(unit, context)
    point = failing_point(rows, 5.0)
    assert point == rows[-1]["per_class"] < 6
    lost = [100 * (rows[0]["test_accuracy"] - row["test_accuracy"]) for row in rows]
    assert lost[-1] > 5.0
    assert max(lost[:-1]) <= 5.0
    # Another criterion goes on from the same steps.
    stress["methods"] = [harsh]
    longer, _ = planned(stress, tmp_path)
    assert steps_of(longer, context)[: len(rows)] == rows


def test_recomputed_moments_and_recovery(stress: dict[str, Any], tmp_path: Path) -> None:
    stress["methods"] = [{**METHOD, "recompute_moments": True, "recover_epochs": 2, "step": 2}]
    unit, context = planned(stress, tmp_path)
    rows = steps_of(unit, context)
    drifts = [row["drift"] for row in rows[1:]]
    assert drifts[0] == pytest.approx(0.0, abs=1e-5), "before the model moves, both ways are the same"
    assert drifts[-1] > 1e-4
    assert 0 <= rows[-1]["recovered_test_accuracy"] <= 1


def test_steps_of_other_sizes_hold_the_same_samples(stress: dict[str, Any], tmp_path: Path) -> None:
    data = load_data(check_recipe(stress), None)
    finest = grouped_steps(data, None)
    for size in (2, 3, 6):
        steps = grouped_steps(data, size)
        assert len(steps) == 6 // size
        assert np.array_equal(np.sort(np.concatenate(steps)), np.sort(np.concatenate(finest)))
        assert np.array_equal(steps[0], np.sort(np.concatenate(finest[:size])))
    with pytest.raises(ValueError, match="step: 4 is not allowed; give one of 1, 2, 3, 6"):
        grouped_steps(data, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": [{**METHOD, "step": 4}]}, "one of 1, 2, 3, 6"),
        ({"scenario": {"kind": "samples", "per_class": 5}}, "forgets in steps"),
    ],
)
def test_what_cannot_be_stepped_is_told_before_anything_runs(
    stress: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    recipe = check_recipe({**stress, **change})
    with pytest.raises(RecipeError, match=words):
        make_plan(recipe, load_data(recipe, None))


def test_hundreds_of_units_that_build_on_one_another_are_walked_at_once() -> None:
    """Each needs the two before it: walking every path would never end."""
    units = [Unit(PlainSpec("step", {"n": 0}), "0"), Unit(PlainSpec("step", {"n": 1}), "1")]
    for n in range(2, 150):
        units.append(Unit(PlainSpec("step", {"n": n}), str(n), needs=(units[-1], units[-2])))
    assert len(units[-1].ancestors()) == 149


@pytest.mark.medium
def test_many_steps_hold_neither_memory_nor_disk(stress: dict[str, Any], tmp_path: Path) -> None:
    """60 steps: of models one is held, of running moments two are stored; both stay as they were after 10."""
    import psutil

    stress["dataset"] = {"source": "digits", "limit": {"test": 50}}
    stress["scenario"] = {"kind": "incremental", "step": 1, "steps": 60}
    stress["training"]["epochs"] = 1
    stress["methods"] = [{**METHOD, "epochs": 1, "lr": 0.01, "final_lr": 0.01}]
    unit, context = planned(stress, tmp_path)
    process, seen = psutil.Process(), []
    original = PGU.unlearn

    def watched(method: PGU, *args: Any, **kwargs: Any) -> Any:
        seen.append((process.memory_info().rss, len(stored(context, "running"))))
        return original(method, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PGU, "unlearn", watched)
        rows = steps_of(unit, context)
    assert rows[-1]["per_class"] == 60
    assert max(held for _, held in seen) <= 2
    early, late = (float(np.median([rss for rss, _ in part])) for part in (seen[10:20], seen[-10:]))
    assert late - early < 30 * 2**20, "the moments of 45 steps would take 90 MiB"


@pytest.mark.medium
def test_any_method_goes_step_by_step_and_is_audited(stress: dict[str, Any], tmp_path: Path) -> None:
    options = {"epochs": 1, "lr": 0.02, "batch_size": 10}
    every = {"name": "stepwise", "method": "neggrad_plus", "options": options}
    stress["methods"] = [{**every, "audit_every": 4}]
    unit, context = planned(stress, tmp_path)
    rows = steps_of(unit, context)
    assert [row["per_class"] for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "audit_auc" in row] == [4, 6], "every fourth step, and the last"
    assert stored(context, "running") == []
    # The same by hand, with plain loops: each step forgets its own and no longer trains on what was forgotten.
    method = replace(unit.spec.params, seed=unit.spec.seed).inner
    model, augment = context.load_model(unit.spec.model), method.needs().augment
    split, everything = context.data.split, np.arange(len(context.data.dataset.train.labels))
    for number, step in enumerate(split.steps):
        left = np.setdiff1d(everything, np.concatenate(split.steps[: number + 1]))
        retain = context.loader("train", left, batch_size=10, augment=augment, seed=unit.spec.seed, shuffle=True)
        model = method.unlearn(model, forget=context.loader("train", step, batch_size=10), retain=retain).model
    kept = context.load_model(unit.key).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    # The audit, pair by pair.
    confident: list[list[float]] = []
    for loader in (context.loader("train", split.forget), context.loader("test", split.test)):
        confident.append([])
        for images, labels in loader:
            p = torch.softmax(model.eval()(images).double(), dim=1)
            confident[-1] += [float(row[y]) for row, y in zip(p.detach(), labels, strict=True)]
    wins = [(a > b) + 0.5 * (a == b) for a in confident[0] for b in confident[1]]
    assert rows[-1]["audit_auc"] == pytest.approx(sum(wins) / len(wins), abs=1e-3)
    # A chain without audits goes on from the same steps.
    stress["methods"] = [every]
    plain, _ = planned(stress, tmp_path)
    assert plain.key != unit.key
    assert steps_of(plain, context)[1:3] == rows[1:3]


@pytest.mark.medium
def test_a_method_with_statistics_gets_those_of_each_steps_model(stress: dict[str, Any], tmp_path: Path) -> None:
    stress["methods"] = [{"name": "stepwise", "method": "ssd", "options": {"alpha": 1.1}}]
    unit, context = planned(stress, tmp_path)
    rows = steps_of(unit, context)
    assert [row["step"] for row in rows] == list(range(7))
    assert unit.spec.code == "version 2", "the version of the method that does the steps"
    # The second step by hand: the statistic of the first step's model, over what was left then.
    method = replace(unit.spec.params, seed=unit.spec.seed).inner
    split, everything = context.data.split, np.arange(len(context.data.dataset.train.labels))
    model, left = context.load_model(unit.spec.model), everything
    for step in split.steps:
        fisher = fisher_diagonal(model, context.loader("train", left))
        model = method.unlearn(model, forget=context.loader("train", step), fisher=fisher).model
        left = np.setdiff1d(left, step)
    kept = context.load_model(unit.key).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"method": "pgu_incremental"}, "a method that does not forget in steps"),
        ({"method": "finetun"}, "finetun"),
        ({"method": "finetune", "options": {"epoch": 1}}, "epoch"),
        ({"method": "finetune", "audit_every": 0}, "audit_every"),
    ],
)
def test_what_stepwise_cannot_be_is_told(stress: dict[str, Any], given: dict[str, Any], told: str) -> None:
    stress["methods"] = [{"name": "stepwise", **given}]
    with pytest.raises(RecipeError, match=told):
        check_recipe(stress)
