"""Plans: pure, shared between recipes where the work is the same, and complete."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest

from orchestrator.base.errors import RecipeError
from orchestrator.base.values import canonical, digest
from orchestrator.plan.data import load_data
from orchestrator.plan.plan import check_stored_models, make_plan
from orchestrator.plan.rows import Plan
from orchestrator.plan.specs import PlainSpec
from orchestrator.plan.stages import STAGES
from orchestrator.plan.units import Unit, experiment_id, seed_for
from orchestrator.recipe.recipe import check_recipe


def plan_of(document: dict[str, Any]) -> Plan:
    recipe = check_recipe(copy.deepcopy(document))
    return make_plan(recipe, load_data(recipe, None))


def keys(plan: Plan, stage: str) -> list[str]:
    return [unit.key for unit in plan.stages[stage]]


def test_counts(tiny: dict[str, Any]) -> None:
    plan = plan_of(tiny)
    # 5 originals, 5 retrained, and 2 for the Retrain row, which the attacker never sees in any fold.
    assert len(plan.stages["train"]) == 12
    assert len(plan.stages["unlearn"]) == 3 * 2
    outputs = [unit.kind for unit in plan.stages["outputs"]]
    assert outputs.count("outputs") == 12 + 3 * 2
    assert outputs.count("unseen") == 5 * 2, "of the models under attack; no attack here is calibrated on them"
    assert [row.method for row in plan.rows] == ["no_unlearn", "retrain", "pgu", "pgu", "eu_k"]
    assert all(len(row.targets) == 2 for row in plan.rows)
    assert [unit.kind for unit in plan.stages["score"]] == ["score", "distance", "traces"] * 5


def test_planning_twice_gives_the_same_keys(tiny: dict[str, Any]) -> None:
    first, second = plan_of(tiny), plan_of(tiny)
    for stage in STAGES:
        assert keys(first, stage) == keys(second, stage)
        assert len(set(keys(first, stage))) == len(keys(first, stage))


def test_seeds_and_models_are_all_different(tiny: dict[str, Any]) -> None:
    seeds = [unit.spec.seed for unit in plan_of(tiny).stages["train"]]
    assert len(set(seeds)) == len(seeds)


def test_recipes_share_models_whatever_they_do_with_them(tiny: dict[str, Any]) -> None:
    base = plan_of(tiny)
    other = copy.deepcopy(tiny)
    other["name"] = "another"
    other["methods"] = [{"name": "cf_k", "k": 1}]
    other["shadows"] = {"originals": 4, "retrained": 4, "split": [1, 1, 2]}
    fewer = set(keys(plan_of(other), "train"))
    # The two references of the Retrain row follow the retrained models, so here they are models 4 and 5 of that role.
    assert fewer <= set(keys(base, "train"))
    more = copy.deepcopy(tiny)
    more["scenario"]["per_class"] = 4
    shared = set(keys(plan_of(more), "train")) & set(keys(base, "train"))
    assert len(shared) == 5, "originals do not depend on what will be forgotten"


@pytest.mark.medium
@pytest.mark.parametrize(
    ("path", "value", "stages"),
    [
        (("seed",), 4, ("train",)),
        (("training", "lr"), 0.06, ("train",)),
        (("training", "epochs"), 5, ("train",)),
        (("model", "width"), 0.125, ("train",)),
        (("dataset", "limit"), {"train": 199, "test": 100}, ("train",)),
        (("scenario", "per_class"), 6, ("unlearn", "outputs")),
        (("methods", 0, "lr"), 0.02, ("unlearn",)),
    ],
)
def test_everything_a_result_depends_on_is_in_its_key(
    tiny: dict[str, Any], path: tuple, value: Any, stages: tuple[str, ...]
) -> None:
    before = plan_of(tiny)
    node: Any = tiny
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    after = plan_of(tiny)
    for stage in stages:
        assert keys(before, stage) != keys(after, stage)
    assert keys(before, "score") != keys(after, "score")


def test_what_does_not_change_results_does_not_change_keys(tiny: dict[str, Any]) -> None:
    before = plan_of(tiny)
    tiny["name"] = "renamed"
    tiny["description"] = "text"
    tiny["resources"] = {"concurrency": 1}
    tiny["tracking"] = {"uri": "sqlite:///x.db"}
    after = plan_of(tiny)
    for stage in STAGES:
        assert keys(before, stage) == keys(after, stage)


@pytest.mark.medium
def test_threads_are_in_the_key_where_they_are_not_one(tiny: dict[str, Any]) -> None:
    """Sums in another order differ in the last bits; a key of before this was so stays what it was."""
    before = plan_of(tiny)
    specs = [unit.spec.identity() for stage in ("train", "unlearn") for unit in before.stages[stage]]
    assert not any("threads" in spec for spec in specs)
    assert set(specs[0]) == {"dataset", "labels", "indices", "model", "training", "seed"}
    for cores in (None, 0.5, 1, 1.5):  # one thread each
        tiny["resources"] = {"cpus_per_unit": cores}
        assert all(keys(plan_of(tiny), stage) == keys(before, stage) for stage in STAGES)
    tiny["resources"] = {"cpus_per_unit": 2}
    after = plan_of(tiny)
    assert all(unit.spec.threads == 2 for stage in ("train", "unlearn") for unit in after.stages[stage])
    for stage in STAGES:
        assert not set(keys(before, stage)) & set(keys(after, stage))


def test_methods_inherit_the_training_recipe(tiny: dict[str, Any]) -> None:
    plan = plan_of(tiny)
    params = next(unit.spec.params for unit in plan.stages["unlearn"] if unit.spec.method == "eu_k")
    assert params.epochs == tiny["training"]["epochs"]
    assert params.lr == tiny["training"]["lr"]
    tiny["methods"][1]["epochs"] = 2
    params = next(unit.spec.params for unit in plan_of(tiny).stages["unlearn"] if unit.spec.method == "eu_k")
    assert params.epochs == 2


def test_pgu_watches_retain_data_where_whole_classes_are_removed(tiny: dict[str, Any]) -> None:
    """As the paper does: validation data hold nothing of a removed class to compare with."""
    classes = {
        **tiny,
        "scenario": {"kind": "classes", "classes": [1]},
        "attacks": [{"name": "xgboost"}],
        "methods": [{"name": "pgu"}, {"name": "pgu", "early_stop": None}],
    }
    stops = [unit.spec.params.early_stop for unit in plan_of(classes).stages["unlearn"]]
    assert {*stops} == {"retain_drop", None}
    plain = plan_of({**tiny, "methods": [{"name": "pgu"}]}).stages["unlearn"]
    assert {unit.spec.params.early_stop for unit in plain} == {"gap"}
    with pytest.raises(RecipeError, match=r"methods\.early_stop: 'gap'.*says nothing where whole classes"):
        plan_of({**classes, "methods": [{"name": "pgu", "early_stop": "gap"}]})


def test_pgu_shares_one_basis_between_its_points(tiny: dict[str, Any]) -> None:
    bases = [unit.spec.basis for unit in plan_of(tiny).stages["unlearn"] if unit.spec.method == "pgu"]
    assert len(bases) == 4
    assert len(set(bases)) == 2


def test_a_unit_lists_its_ancestors_parents_first(tiny: dict[str, Any]) -> None:
    unit = next(unit for unit in plan_of(tiny).stages["unlearn"] if unit.spec.method == "pgu")
    assert [ancestor.kind for ancestor in unit.ancestors().values()] == ["train", "moments", "basis"]


def test_reuse_only_refuses_missing_models(tiny: dict[str, Any]) -> None:
    tiny["shadows"]["reuse_only"] = True
    plan = plan_of(tiny)
    check_stored_models(plan, 12)
    with pytest.raises(RecipeError, match=r"shadows.reuse_only.*12 models are asked for, but only 3"):
        check_stored_models(plan, 3)


def test_experiment_identity_is_the_resolved_recipe(tiny: dict[str, Any]) -> None:
    first = experiment_id(check_recipe(copy.deepcopy(tiny)))
    assert first == experiment_id(check_recipe(copy.deepcopy(tiny)))
    tiny["seed"] = 9
    assert first != experiment_id(check_recipe(tiny))


def test_canonical_json_and_seeds() -> None:
    assert canonical({"b": 1, "a": [1.0, None, True]}) == '{"a":[1.0,null,true],"b":1}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert 0 <= seed_for(0, "original", 1) < 2**31
    assert len({seed_for(0, "original", i) for i in range(1000)}) == 1000
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))
    assert Unit(PlainSpec("train", {"a": 1}), "x").key == Unit(PlainSpec("train", {"a": 1}), "other name", cost=7).key


def test_a_key_is_the_digest_of_all_that_a_unit_depends_on(tiny: dict[str, Any]) -> None:
    """Keys are put together from texts that units share. They are those of the whole description."""
    tiny["methods"] = [
        {"name": "pgu", "gamma": {"grid": [0.9, {"linear2": 0.5}]}, "epochs": 1},
        {"name": "eu_k", "k": {"grid": [1, 2]}, "epochs": 1},
        {"name": "ssd"},
    ]
    tiny["attacks"] = [{"name": "xgboost"}, {"name": "u_lira"}, {"name": "rmia"}]
    tiny["outputs"], tiny["shadows"]["unlearn"] = {"retain": 10, "test": 10}, "all"
    plan = plan_of(tiny)
    units = {**{u.key: u for u in plan.units()}, **{k: v for u in plan.units() for k, v in u.ancestors().items()}}
    kinds = {"train", "moments", "basis", "fisher", "unlearn", "outputs", "unseen", "retained"}
    assert {unit.kind for unit in units.values()} == kinds | {"attack", "score", "distance", "traces", "collateral"}
    for key, unit in units.items():
        described = {"format": 1, "kind": unit.kind, "spec": unit.spec.identity()}
        text = json.dumps(described, sort_keys=True, separators=(",", ":"), allow_nan=False)
        assert key == hashlib.sha256(text.encode()).hexdigest(), unit.name


@pytest.mark.parametrize("value", ["", "é\n\"'\\\u2028😀", 0, -3, 10**30, True, False, None, 0.1, 1e300, [], ["a", 1, [True, "b"]], ["a"] * 20, [1.5, None], {"b": 1, "a": [2]}])  # fmt: skip
def test_canonical_text_is_that_of_the_encoder(value: Any) -> None:
    assert canonical(value) == json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
