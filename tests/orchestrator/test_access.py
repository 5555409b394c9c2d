"""A method gets what it declares, as stored work that others share, and nothing more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from orchestrator.plan.data import load_data
from orchestrator.plan.plan import make_plan
from orchestrator.plan.rows import Plan
from orchestrator.recipe.recipe import check_recipe
from orchestrator.store import LocalStore
from orchestrator.work.context import Context
from orchestrator.work.execute import execute
from orchestrator.work.inputs import method_inputs
from unlearn import METHODS, fisher_diagonal
from unlearn.methods.base import Method, Needs, UnlearnResult

Planned = Callable[..., tuple[Plan, Context]]


@pytest.fixture
def planned(tiny: dict[str, Any], tmp_path: Path) -> Planned:
    def make(**changes: Any) -> tuple[Plan, Context]:
        recipe = check_recipe(
            {**tiny, "attacks": [], "shadows": {"originals": 2, "retrained": 0, "split": [0, 0, 2]}, **changes}
        )
        store = LocalStore(tmp_path / "store")
        data = load_data(recipe, store)
        return make_plan(recipe, data), Context(store, data)

    return make


def test_a_fisher_diagonal_is_made_once_for_a_model_whatever_asks_for_it(planned: Planned) -> None:
    methods = [{"name": "ssd", "alpha": {"grid": [1.0, 2.0]}}, {"name": "ssd", "alpha": 1.0, "lam": 0.5}]
    plan, context = planned(methods=methods)
    units = plan.stages["unlearn"]
    assert len(units) == 6
    fishers = {need.key: need for unit in units for need in unit.needs if need.kind == "fisher"}
    assert len(fishers) == 2, "one for each original"
    assert all(unit.spec.fisher in fishers and not unit.spec.basis for unit in units)
    elsewhere, _ = planned(methods=methods, scenario={"kind": "samples", "per_class": 3})
    assert {n.key for unit in elsewhere.stages["unlearn"] for n in unit.needs} >= set(fishers), "whatever is forgotten"
    outcome = execute(units[0], context)
    assert not outcome.failed, outcome.traceback
    # The same by hand: the method on the loaded model, with the statistic computed here and now.
    model = context.load_model(units[0].spec.model)
    fisher = fisher_diagonal(model, context.loader("train"))
    method = METHODS["ssd"](alpha=1.0)
    expected = method.unlearn(model, **method_inputs(method, context, units[0].spec.seed), fisher=fisher).model
    found = context.load_model(units[0].key).state_dict()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-7)


@dataclass(frozen=True)
class Share(Method):
    name: ClassVar[str] = "share"
    share: float = 0.25
    held_out: bool = False

    def needs(self) -> Needs:
        return Needs("retain_share", share=self.share, validation=self.held_out)

    def unlearn(self, model: torch.nn.Module, **given: Any) -> UnlearnResult:
        return UnlearnResult(model)


def test_a_share_of_the_retain_set_is_that_share_and_the_same_each_time(planned: Planned) -> None:
    _, context = planned(methods=[])
    split = context.data.split

    def handed(method: Method, seed: int = 5) -> set[int]:
        return set(np.asarray(method_inputs(method, context, seed)["retain"].indices).tolist())

    some = handed(Share())
    assert len(some) == len(split.retain) // 4
    assert some < set(split.retain.tolist()), "never a sample of the forget set"
    assert handed(Share()) == some
    assert handed(Share(), seed=6) != some
    assert handed(Share(share=1.0)) == set(split.retain.tolist())


def test_nothing_is_handed_over_that_was_not_declared(planned: Planned) -> None:
    _, context = planned(methods=[])
    assert set(method_inputs(METHODS["ssd"](), context, 0)) == {"forget"}
    assert set(method_inputs(Share(), context, 0)) == {"forget", "retain"}
    held_out = method_inputs(Share(held_out=True), context, 0)["validation"]
    assert set(held_out.indices.tolist()) == set(context.data.split.val.tolist())
    assert not set(held_out.indices.tolist()) & set(context.data.split.test.tolist()), "the reported half stays unseen"
