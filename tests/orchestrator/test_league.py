"""A league: its faults, its budget, and a tiny one that is killed, goes on, and ends with the same table."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from orchestrator.base.documents import LeagueDocument
from orchestrator.base.errors import RecipeError
from orchestrator.commands.cli import main
from orchestrator.experiments.collect_garbage import used_keys
from orchestrator.experiments.league.sampler import Sampler, generations
from orchestrator.plan.data import load_data
from orchestrator.plan.league import LeaguePlan, check_league, chosen, point_of, rungs_of
from orchestrator.plan.plan import make_plan
from orchestrator.plan.search import plan_settings
from orchestrator.plan.units import experiment_id
from orchestrator.recipe.options import settings_of
from orchestrator.recipe.recipe import check_recipe
from orchestrator.recipe.sections import League
from orchestrator.store import LocalStore
from unlearn import METHODS

IDLE = {"name": "cf_k", "k": 1, "lr": 1e-7, "epochs": 1, "final_lr": None}
ABSURD = {"name": "grad_ascent", "lr": 50.0, "epochs": 3, "clip": None}
AGAIN = {"name": "eu_k", "k": 5, "lr": {"grid": [0.05, 0.02]}}


def playing(document: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The tiny recipe with a method that retrains, one that does nothing and one that ruins models."""
    document = copy.deepcopy(document)
    document["dataset"]["limit"]["train"] = 120
    document["training"] |= {"epochs": 8, "weight_decay": 0.0}
    document["methods"] = copy.deepcopy([AGAIN, IDLE, ABSURD])
    document["shadows"] = {"originals": 8, "retrained": 8, "split": [2, 2, 4]}
    document["league"] = {"budget": {"settings": 3, "models": 2}, **fields}
    document["league"].setdefault("bound", {"error_test_increase": 30.0})
    return document


def faults(document: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as error:
        check_league(check_recipe(document))
    return str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("league", None, "league: None: missing; allowed: budget"),
        ("league.budgets", {}, "reduction, looks; did you mean 'budget'?"),
        ("league.budget.settings", 0, "league.budget.settings: 0"),
        ("league.budget.models", 5, "more models than the validation fold has; allowed: at most 2"),
        ("league.objective", "auc", "league.objective: 'auc'"),
        ("league.bound", {}, "null for none"),
        ("league.looks", 3, "league.looks: 3"),
        ("league.seeds", 0, "league.seeds: 0"),
        ("league.measured", {"pgu": 2}, "league.measured.pgu: 2: no such method here"),
        ("methods", [], "nobody competes"),
        ("methods", [IDLE, IDLE], "methods.1.name: 'cf_k': competes twice"),
        ("methods", [IDLE | {"lr": {"zip": [0.1, 0.2]}}], "a league varies each option for itself"),
        ("shadows.split", [3, 1, 4], "fold has 1 models"),
        ("attacks", [{"name": "lira"}], "fitted once for all settings; allowed: xgboost"),
    ],
)
def test_faults_are_named(tiny: dict[str, Any], path: str, value: Any, words: str) -> None:
    document = playing(tiny)
    node = document
    *parents, last = path.split(".")
    for part in parents:
        node = node[part]
    node[last] = value
    assert words in faults(document)


def test_a_league_changes_no_key_of_a_run(tiny: dict[str, Any]) -> None:
    with_league = check_recipe(playing(tiny))
    document = playing(tiny)
    del document["league"]
    without = check_recipe(document)
    data = load_data(without, None)
    keys = [[unit.key for unit in make_plan(recipe, data).units()] for recipe in (without, with_league)]
    assert keys[0] == keys[1]
    assert "league" not in check_recipe(copy.deepcopy(tiny)).document, "older recipes stay the experiments they were"
    assert experiment_id(without) != experiment_id(with_league)


def test_every_method_has_the_same_budget() -> None:
    league = League.model_validate({"budget": {"settings": 12, "models": 6}, "reduction": 3})
    assert [(rung.settings, rung.models) for rung in rungs_of(league)] == [(12, 1), (4, 3), (2, 6)]
    assert sum(generations(12)) == 12
    assert generations(1) == [1]
    distances = League.model_validate({"budget": {"settings": 4, "models": 2}, "objective": "klom"})
    assert [(rung.settings, rung.models) for rung in rungs_of(distances)] == [(4, 2)]


def sampled(plan: LeaguePlan, name: str, values: Any = lambda point: 0.1) -> list[tuple[str, dict[str, Any]]]:
    entry = next(entry for entry in plan.entries if entry.name == name)
    sampler = Sampler(entry, 12, 7, lambda options: point_of(plan.recipe, name, options))
    found = []
    for count in generations(12):
        asked = sampler.ask(count)
        sampler.tell([values(point) for _, point in asked])
        found += [(source, dict(settings_of(point.method))) for source, point in asked]
    return found


def test_settings_start_from_published_ones_and_follow_what_was_measured(tiny: dict[str, Any]) -> None:
    document = playing(tiny)
    document["methods"] = [{"name": "scrub"}, {"name": "ssd", "lam": 1.0}]
    plan = check_league(check_recipe(document))
    drawn = sampled(plan, "scrub")
    assert [source for source, _ in drawn[:4]] == [
        "preset scrub-notebook", "preset scrub-k1nght", "preset scrub-rum", "its default settings",
    ]  # fmt: skip
    assert len(drawn) == 12
    assert {source for source, _ in drawn[4:]} == {"drawn"}
    assert drawn == sampled(plan, "scrub"), "the same values give the same settings, whoever was faster"
    assert all(params["lam"] == 1.0 for _, params in sampled(plan, "ssd")), "what the recipe gives is held"

    def high_is_good(point: Any) -> float:
        return abs(math.log(point.method.alpha / 50.0))

    told = [params["alpha"] for _, params in sampled(plan, "ssd", high_is_good)][6:]
    blind = [params["alpha"] for _, params in sampled(plan, "ssd")][6:]
    assert np.median(np.abs(np.log(np.divide(told, 50.0)))) < np.median(np.abs(np.log(np.divide(blind, 50.0))))


def test_settings_that_differ_in_what_has_no_effect_are_one(tiny: dict[str, Any]) -> None:
    """With a constant rate `final_lr` does nothing: two draws that differ in it alone spent the budget twice."""
    document = playing(tiny)
    held = {name: settings_of(METHODS["grad_ascent"]())[name] for name in METHODS["grad_ascent"].space()}
    del held["final_lr"]
    assert held["schedule"] == "constant"
    document["methods"] = [{"name": "grad_ascent", **held}]
    tried = [params for _, params in sampled(check_league(check_recipe(document)), "grad_ascent")]
    assert [params["final_lr"] for params in tried if params["schedule"] == "constant"] == [None]
    document["methods"] = [{"name": "grad_ascent", **held, "schedule": "cosine"}]
    tried = [params for _, params in sampled(check_league(check_recipe(document)), "grad_ascent")]
    rates = [params["final_lr"] for params in tried if params["schedule"] == "cosine"]
    assert len(rates) == 3, "there it matters"
    assert set(rates) == {None, 1e-05, 0.0001}


def test_a_method_whose_options_are_all_held_is_tried_once(tiny: dict[str, Any]) -> None:
    document = playing(tiny)
    held = {name: settings_of(METHODS["ssd"]())[name] for name in METHODS["ssd"].space()}
    document["methods"] = [{"name": "ssd", **held}]
    plan = check_league(check_recipe(document))
    tried = sampled(plan, "ssd")
    assert len(tried) <= 3, "its presets may differ in what is not searched"
    assert all(params[name] == value for _, params in tried for name, value in held.items())


def test_options_that_cannot_stand_together_are_not_tried(tiny: dict[str, Any]) -> None:
    plan = check_league(check_recipe(playing(tiny)))
    assert point_of(plan.recipe, "cf_k", {"k": 0}) is None


@pytest.mark.parametrize("objective", ["auc_gap", "klom"])
def test_nothing_of_the_test_fold_is_part_of_the_tuning(tiny: dict[str, Any], objective: str) -> None:
    plan = check_league(check_recipe(playing(tiny, objective=objective)))
    data = load_data(plan.recipe, None)
    planned = plan_settings(plan.recipe, data, [IDLE], distances=objective != "auc_gap")
    units = [unit for setting in planned.settings for step in setting.steps for unit in step.units()]
    needed = {key for unit in units for key in (unit.key, *unit.ancestors())}
    final = make_plan(chosen(plan.recipe, [dict(IDLE)], {}), data)
    test = {unit.key for row in final.rows for unit in (*row.targets, *row.producers, *row.measures)}
    test |= {output.key for output in final.population if output.label.fold == "test"}
    assert needed
    assert not needed & test
    assert {unit.kind for unit in units} == {"unlearn", "outputs", "score"} | (
        {"distance"} if objective == "klom" else set()
    )


def test_a_method_whose_place_is_certain_is_measured_on_fewer_models(tiny: dict[str, Any]) -> None:
    recipe = check_recipe(playing(tiny))
    data = load_data(recipe, None)
    methods = [dict(IDLE), dict(ABSURD)]
    whole = make_plan(chosen(recipe, methods, {}), data)
    fewer = make_plan(chosen(recipe, methods, {"cf_k": 2}), data)
    assert [len(row.targets) for row in whole.rows] == [4, 4, 4, 4]
    assert [len(row.targets) for row in fewer.rows] == [4, 4, 2, 4]
    assert fewer.rows[3].distance == whole.rows[3].distance, "the others are measured as before"
    assert fewer.rows[2].targets == whole.rows[2].targets[:2]


# ------------------------------ a whole league


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny league."""
    from .conftest import TINY

    folder = tmp_path_factory.mktemp("league")
    tracking = {"uri": f"sqlite:///{folder}/mlflow.db", "experiment": "league"}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(playing(TINY) | {"tracking": tracking}))
    arguments = ["league", str(folder / "tiny.yaml"), "--output", str(folder / "out"), "--address", "inline", "--quiet"]
    assert main(arguments) == 0
    return folder


def timeless(path: Path) -> Any:
    """A league without its seconds, which no two machines share."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                k: without(v)
                for k, v in value.items()
                if k not in ("seconds", "seconds_per_model", "speedup_vs_retrain")
            }
        return [without(v) for v in value] if isinstance(value, list) else value

    return without(json.loads(path.read_text()))


@pytest.mark.long
def test_a_tiny_league(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found: LeagueDocument = json.loads((played / "out" / "league.json").read_text())
    rows = {each["method"]: each for each in found["rows"]}
    assert list(rows)[:2] == ["no_unlearn", "retrain"]
    nothing, idle, again = (rows[name]["cells"] for name in ("no_unlearn", "cf_k", "eu_k"))
    assert idle["auc"]["value"] == pytest.approx(nothing["auc"]["value"], abs=0.02), "doing nothing changes nothing"
    assert not rows["cf_k"]["beats_nothing"]
    assert again["average_gap"]["value"] < nothing["average_gap"]["value"], "training anew comes nearer to Retrain"
    assert rows["grad_ascent"]["rank"] is None or rows["grad_ascent"]["rank_high"] == 2
    for each in found["tuned"]:
        assert each["spent"]["settings"] == len(each["trials"]) <= 3
        assert sum(trial["winner"] for trial in each["trials"]) == 1
    results = json.loads((played / "out" / "results.json").read_text())
    assert results["recipe"]["league"]["budget"]["settings"] == 3
    before = (played / "out" / "league.json").read_bytes()
    arguments = ["league", str(played / "tiny.yaml"), "--output", str(played / "out"), "--address", "inline", "--quiet"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(before)
    assert (played / "out" / "league.json").read_bytes() == before, "the same league, the same bytes"
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{played}/mlflow.db")
    runs = client.search_runs(["1"], "tags.stage = 'trial'")
    logged = {run.info.run_name for run in runs}
    assert len(runs) == sum(len(each["trials"]) for each in found["tuned"]) == len(logged)
    assert sum(run.data.tags["winner"] == "true" for run in runs) == len(found["tuned"])
    assert len(client.search_runs(["1"], "tags.stage = 'result'")) == len(found["rows"])


@pytest.mark.long
def test_gc_keeps_what_the_tuning_made(played: Path) -> None:
    store = LocalStore(played / "out" / "store")
    assert set(store.keys()) <= used_keys([played / "out"])


@pytest.mark.long
def test_a_league_that_is_killed_three_times_ends_with_the_same_table(played: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    store = LocalStore(played / "out" / "store")
    shutil.copytree(played / "out" / "store", out / "store")
    copied = LocalStore(out / "store")
    shared = ("train", "attack", "dataset")
    for key in list(store.keys()):  # shadow models stay: the time goes into the league
        meta = store.meta(key)
        if meta["kind"] not in shared and not (meta["kind"] == "outputs" and meta.get("errors") is None):
            copied.remove(key)
    left = len(list(store.keys())) - len(list(copied.keys()))
    command = [sys.executable, "-m", "orchestrator", "league", str(played / "tiny.yaml"), "--output", str(out)]
    for part in (1, 2, 3):
        with (tmp_path / f"log-{part}").open("wb") as log:
            process = subprocess.Popen([*command, "--address", "inline"], stdout=log, stderr=log, env={**os.environ})
        wanted = len(list(store.keys())) - left + part * left // 4
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline and len(list(copied.keys())) < wanted:
            time.sleep(0.05)
        assert process.poll() is None, (tmp_path / f"log-{part}").read_text()
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        assert not (out / "league.json").exists()
    assert main([*command[3:], "--address", "inline", "--quiet"]) == 0
    assert timeless(out / "league.json") == timeless(played / "out" / "league.json")
