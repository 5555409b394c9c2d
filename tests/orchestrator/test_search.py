"""A search: its faults, what it calls best, and a whole one that is killed, goes on, and leaves the test fold alone."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.base.errors import RecipeError, UserError
from orchestrator.commands.cli import main
from orchestrator.experiments.run import RunOptions
from orchestrator.experiments.search import find, no_winner
from orchestrator.plan.data import load_data
from orchestrator.plan.objective import FAILED, front_of, objective, pareto_front, winner_of
from orchestrator.plan.plan import make_plan
from orchestrator.plan.search import SearchPlan, check_search, draw, plan_search
from orchestrator.plan.specs import OutputsSpec
from orchestrator.plan.units import Unit, experiment_id
from orchestrator.recipe.recipe import check_recipe, load_recipe
from orchestrator.recipe.sections import Recipe
from orchestrator.records.folder import OutputFolder
from orchestrator.report.write import write_report
from orchestrator.store import LocalStore
from orchestrator.work.context import Context
from orchestrator.work.execute import execute
from unlearn.core.rounding import within

IDLE, SENSIBLE, ABSURD = 1e-5, 0.2, 40.0


def searching(document: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The tiny recipe with two validation models and a search over γ and learning rate."""
    document = copy.deepcopy(document)
    document["methods"] = []
    document["shadows"] = {"originals": 6, "retrained": 6, "split": [2, 2, 2]}
    method = {"name": "pgu", "gamma": 0.9, "lr": {"grid": [SENSIBLE, ABSURD]}, "epochs": 3, "early_stop": None}
    document["search"] = {"method": method, "samples": 4, **fields}
    return document


def faults(document: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as error:
        check_search(check_recipe(document))
    return str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("search", None, "search: None: missing; allowed: method"),
        ("search.sample", 3, "did you mean 'samples'?"),
        ("search.samples", 0, "search.samples: 0"),
        ("search.grace", 3, "search.grace: 3: more models than the validation fold has; allowed: at most 2"),
        ("search.reduction", 1, "search.reduction: 1"),
        ("search.objective", "auc", "search.objective: 'auc'"),
        ("search.bound", {"error_test": 1}, "error_test_increase"),
        ("search.bound", {"error_test_increase": -1}, "at least 0"),
        ("search.bound", {}, "null for none"),
        ("search.method.name", "pga", "search.method.name: 'pga': no such method"),
        ("search.method.name", "retrain", "always a row of its own"),
        ("search.method.gama", {"uniform": [0.1, 0.9]}, "search.method.gama: {'uniform': [0.1, 0.9]}: unknown key"),
        ("search.method.gamma", {"uniform": [0.9, 0.5]}, "search.method.gamma.uniform"),
        ("search.method.gamma", {"uniform": [0.5, 9.0]}, "search.method.gamma"),
        ("search.method.samples", 5, "belongs one level up"),
        ("search.method.lr", 0.1, "nothing to search"),
        ("shadows.split", [3, 1, 2], "has 1 models of a kind; allowed: at least 2"),
        ("attacks", [{"name": "lira"}], "fitted once for all settings; allowed: xgboost"),
    ],
)
def test_faults_are_named(tiny: dict[str, Any], path: str, value: Any, words: str) -> None:
    document = searching(tiny)
    node = document
    *parents, last = path.split(".")
    for part in parents:
        node = node[part]
    node[last] = value
    assert words in faults(document)


def test_no_trials_in_one_process(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Ray Tune"):
        find(check_recipe(searching(tiny)), RunOptions(tmp_path, address="inline", quiet=True))


def test_settings_are_drawn_from_the_recipe_alone(tiny: dict[str, Any]) -> None:
    def points(samples: int, **method: Any) -> list[dict[str, Any]]:
        document = searching(tiny, samples=samples)
        document["search"]["method"] = {"name": "pgu", **method}
        recipe = check_recipe(document)
        assert recipe.search is not None
        return draw(recipe, recipe.search)

    ranges = {"gamma": {"uniform": [0.5, 0.99]}, "lr": {"loguniform": [0.01, 0.5]}, "epochs": 5}
    drawn = points(24, **ranges)
    assert len(drawn) == 24
    assert drawn == points(24, **ranges)
    assert all(0.5 <= p["gamma"] <= 0.99 and 0.01 <= p["lr"] <= 0.5 and p["epochs"] == 5 for p in drawn)
    mixed = points(10, gamma={"grid": [0.9, 0.8, 0.7]}, lr={"loguniform": [0.01, 0.5]})
    assert [p["gamma"] for p in mixed] == [0.9] * 3 + [0.8] * 3 + [0.7] * 3
    many = {"gamma": {"grid": [g / 100 for g in range(50, 100)]}, "epochs": {"grid": [1, 2]}}
    chosen = points(7, **many)
    assert len(chosen) == 7
    assert chosen == points(7, **many)


numbers = st.floats(-5, 100, allow_nan=False)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_the_front_is_what_no_other_point_beats(points: list[tuple[int, int]]) -> None:
    def beaten(p: tuple[int, int]) -> bool:
        return any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)

    front = pareto_front([(float(x), float(y)) for x, y in points])
    assert set(front) == {i for i, p in enumerate(points) if not beaten(p)}
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


@given(st.floats(0, 0.5), st.floats(0, 0.5), numbers, numbers, st.one_of(st.none(), st.floats(0, 50)))
def test_the_objective_never_improves_when_a_measure_worsens(
    gap: float, other: float, rise: float, more: float, bound: float | None
) -> None:
    low, high = sorted((gap, other))
    near, far = sorted((rise, more))
    assert objective(low, near, bound) <= objective(high, far, bound) < FAILED
    if within(far, bound):
        assert objective(high, far, bound) == high
    elif within(near, bound):
        assert objective(0.5, near, bound) <= objective(0.0, far, bound), "within the bound beats beyond it"
    elif far > near + 1e-9:
        assert objective(high, near, bound) < objective(low, far, bound), "the nearer to the bound the better"


def trial(gap: float, rise: float, status: str = "finished", bound: float = 2.0) -> dict[str, Any]:
    measures = {"auc_gap": gap, "error_rise": rise, "objective": objective(gap, rise, bound)}
    return {**measures, "status": status, "within_bound": rise <= bound, "params": {"gamma": gap, "lr": rise}}


def test_winner_and_front_are_settings_measured_on_all_models_within_the_bound() -> None:
    trials = [trial(0.1, 1.0), trial(0.0, 1.0, "stopped"), trial(0.05, 3.0), trial(0.1, 0.5), trial(0.2, 0.9)]
    assert winner_of(trials) == 3
    assert front_of(trials) == [3, 2]
    beyond = [trial(0.1, 3.0), trial(0.0, 1.0, "stopped")]
    assert winner_of(beyond) is None
    assert "none of the 1 settings" in no_winner(beyond, 2.0)
    assert front_of([]) == []
    assert winner_of([]) is None


def planned(document: dict[str, Any]) -> tuple[Recipe, SearchPlan, set[str]]:
    """The recipe, its search plan, and the keys of all that belongs to the test fold."""
    recipe = check_recipe(copy.deepcopy(document))
    data = load_data(recipe, None)
    plan = plan_search(recipe, data)
    rows = plan.plan.rows
    test = {unit.key for row in rows for unit in (*row.targets, *row.producers, *row.scores)}
    for output in plan.plan.population:
        if output.label.fold == "test":
            test |= {output.key, *output.ancestors()}
    for row in rows:
        for producer in row.producers:
            test |= {need.key for need in producer.needs}
    return recipe, plan, test


def units_of(plan: SearchPlan) -> list[Unit]:
    steps = [unit for setting in plan.settings for step in setting.steps for unit in step.units()]
    return [*plan.models, *plan.population, *plan.references, *plan.attackers, *plan.shared, plan.baseline, *steps]


def test_nothing_of_the_test_fold_is_part_of_a_search(tiny: dict[str, Any]) -> None:
    _, plan, test = planned(searching(tiny))
    steps = [unit for setting in plan.settings for step in setting.steps for unit in step.units()]
    needed = {key for unit in units_of(plan) for key in (unit.key, *unit.ancestors())}
    assert len(plan.settings) == 2
    assert all(len(setting.steps) == 2 for setting in plan.settings)
    assert len({unit.key for unit in steps}) == 2 * 2 * 3
    assert not needed & test


def test_errors_of_a_search_are_those_of_a_run_where_classes_are_removed(tiny: dict[str, Any]) -> None:
    """Errors of originals among all classes, beside unlearned ones' among those left, would hide a cost."""
    _, plan, _ = planned({**searching(tiny), "scenario": {"kind": "classes", "classes": [0]}})
    specs = [unit.spec for unit in units_of(plan) if isinstance(unit.spec, OutputsSpec)]
    kinds = {(spec.errors, spec.among_kept) for spec in specs}
    assert (True, True) in kinds
    assert kinds <= {(True, True), (False, False)}


def test_a_search_changes_no_key_of_a_run(tiny: dict[str, Any]) -> None:
    recipe = check_recipe(copy.deepcopy(tiny))
    tiny["shadows"] = {"originals": 6, "retrained": 6, "split": [2, 2, 2]}
    without = check_recipe(copy.deepcopy(tiny))
    with_search = check_recipe(tiny | {"search": searching(tiny)["search"]})
    data = load_data(without, None)
    assert [u.key for u in make_plan(without, data).units()] == [u.key for u in make_plan(with_search, data).units()]
    assert "search" not in recipe.document, "older recipes stay the experiments that they were"
    assert experiment_id(without) != experiment_id(with_search)


@pytest.mark.medium
def test_the_page_shows_the_search_that_chose_its_methods(tmp_path: Path) -> None:
    methods = [{"name": "pgu", "gamma": 0.1, "lr": 0.5}]
    trials = [trial(0.1, 0.5), trial(0.2, 0.1), trial(0.3, 60.0, "stopped"), trial(0.0, 0.0, "failed")]
    search = {"method": {"name": "pgu"}}
    document = {
        "schema": 1,
        "search": search,
        "method": "pgu",
        "models": 4,
        "bound": 2.0,
        "trials": trials,
        "winner": 0,
        "front": [1, 0],
        "methods": methods,
        "no_unlearn": {"auc_gap": 0.3},
        "notes": ["slightly optimistic"],
    }
    row = {"method": "pgu", "params": {"gamma": 0.1, "lr": 0.5}, "metrics": {"auc": 0.6}, "ci": {}, "status": "done"}
    results = {"schema": 1, "recipe": {"name": "x", "search": search, "methods": methods}, "rows": [row]}
    (tmp_path / "search.json").write_text(json.dumps(document))
    (tmp_path / "results.json").write_text(json.dumps(results))
    folder = OutputFolder(tmp_path)
    folder.seal_report(write_report(tmp_path))
    svg = (tmp_path / "figures" / "pareto.svg").read_text()
    assert all(word in svg for word in ("Pareto front", "winner", "bound", "stopped early", "γ=0.1, lr=0.5"))
    assert (tmp_path / "figures" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert "slightly optimistic" in page
    assert "1 setting beyond the right edge" in page
    results["recipe"] = {"name": "another", "methods": methods}
    (tmp_path / "results.json").write_text(json.dumps(results))
    folder.seal_report(write_report(tmp_path))
    assert not (tmp_path / "figures" / "pareto.svg").exists()


def start(recipe: Path, out: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "orchestrator", "search", str(recipe), "--output", str(out), "--address", "local"]
    with log.open("wb") as file:  # not a pipe: Ray's agents would hold it open
        return subprocess.Popen(command, stdout=file, stderr=file)


@pytest.mark.long
@pytest.mark.ray
def test_a_killed_search_goes_on_and_picks_the_sensible_setting(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny["training"] |= {"epochs": 12, "batch_size": 32}
    document = searching(tiny, bound={"error_test_increase": 10.0}, grace=2)
    document["search"]["method"] |= {"gamma": 0.6, "lr": {"grid": [ABSURD, IDLE, SENSIBLE]}, "epochs": 10}
    recipe_file, out = tmp_path / "tiny.yaml", tmp_path / "out"
    recipe_file.write_text(yaml.safe_dump(document))
    recipe, plan, test = planned(document)
    # Shadow models and attackers here, without the seconds that each stage on Ray takes to begin.
    store = LocalStore(out / "store")
    context = Context(store, load_data(recipe, None))
    assert not any(execute(unit, context).failed for unit in (*plan.attackers, *plan.references, *plan.shared))
    process = start(recipe_file, out, tmp_path / "log")
    folder = OutputFolder(out)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        seen = sum(event.get("event") == "unit" and event["stage"] == "search" for event in folder.events())
        if seen >= 3 or process.poll() is not None:
            break
        time.sleep(0.02)
    assert process.poll() is None, (tmp_path / "log").read_text()
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    # Trials end with their driver; some of Ray's own agents take minutes to notice.
    _, alive = psutil.wait_procs(children, timeout=3)
    for child in alive:
        child.kill()
    psutil.wait_procs(alive, timeout=10)
    before = {key: store.meta(key).get("finished") for key in list(store.keys())}
    unlearned = {step.unlearn.key for setting in plan.settings for step in setting.steps}
    assert unlearned & set(before), "killed before anything was unlearned"
    assert not test & set(before), "the search touched the test fold"
    assert not (out / "search.json").exists()

    # The trials go on on Ray; what was chosen then runs in this process.
    settled = find(recipe, RunOptions(out, address="local", quiet=True))
    assert not test & set(store.keys()), "the search touched the test fold"
    assert "final" not in settled
    assert main(["search", str(recipe_file), "--output", str(out), "--address", "inline", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {key: store.meta(key).get("finished") for key in before} == before, "a finished unit ran again"
    done = [event["unit"] for event in folder.events() if event.get("event") == "unit" and event["status"] == "done"]
    assert len(done) == len(set(done))
    assert found["trials"] == settled["trials"]

    by_rate = {trial["params"]["lr"]: trial for trial in found["trials"]}
    assert by_rate[ABSURD]["status"] == "failed" or not by_rate[ABSURD]["within_bound"]
    assert found["trials"][found["winner"]] is by_rate[SENSIBLE]
    assert by_rate[SENSIBLE]["auc_gap"] < 0.75 * by_rate[IDLE]["auc_gap"]
    assert by_rate[IDLE]["auc_gap"] == pytest.approx(found["no_unlearn"]["auc_gap"], abs=0.02)
    assert by_rate[SENSIBLE]["error_rise"] <= 10.0
    assert [t["pareto"] for t in found["trials"]] == [i in found["front"] for i in range(3)]
    assert any("slightly optimistic" in note for note in found["notes"])
    assert any("has 2 models" in note for note in found["notes"])
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [row["params"] for row in rows[2:]] == [
        {k: v for k, v in m.items() if k != "name"} for m in found["methods"]
    ]
    assert found["final"][0]["auc"] == rows[2]["metrics"]["auc"]
    assert json.loads((out / "search.json").read_text()) == found
    assert (out / "figures" / "pareto.svg").is_file()


@pytest.mark.medium
def test_gc_keeps_what_an_unfinished_search_has_made(tmp_path: Path) -> None:
    from orchestrator.experiments.collect_garbage import used_keys

    recipe = load_recipe("search-demo")
    folder = OutputFolder(tmp_path / "search")
    folder.create()
    store = LocalStore(tmp_path / "store")
    folder.write_recipe(recipe, store.uri)
    wanted = {unit.key for unit in plan_search(recipe, load_data(recipe, store)).units()}
    assert len(wanted) > 50
    assert wanted <= used_keys([folder.path], store)
