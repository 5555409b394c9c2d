"""A recipe's rows say of its models what an audit of their outputs says: nothing less, and the same numbers."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attack import ATTACKS
from attack.audit.audit import run_attacks
from attack.distances.compare import UNCHANGED
from attack.distances.klom import KLoM
from attack.metrics.row import Row as ResultRow
from attack.outputs.sources import ParquetFiles
from orchestrator.experiments.results import collect
from orchestrator.experiments.run import RunOptions, RunResult, run
from orchestrator.plan import measures as measuring
from orchestrator.plan.data import load_data
from orchestrator.plan.plan import make_plan
from orchestrator.plan.rows import Plan, Row
from orchestrator.plan.specs import DistanceSpec, Outputs
from orchestrator.plan.units import Unit
from orchestrator.recipe.recipe import check_recipe
from orchestrator.report.show import terminal_table
from orchestrator.store import LocalStore
from orchestrator.work.outputs import write_fragment
from orchestrator.work.scoring import measure_distances

from .conftest import TINY

QUICK = {"rounds": 8, "max_depth": 3, "eta": 0.3, "min_child_weight": 1.0}


def trained() -> dict[str, Any]:
    """The tiny recipe with four times the steps: its models must know something for rows to differ."""
    document = copy.deepcopy(TINY)
    document["training"]["batch_size"] = 32
    return document


def every_attack() -> dict[str, Any]:
    """All originals are unlearned, for U-LiRA: rows have more models than Retrain's, and only as many count for distances."""
    document = trained()
    document["shadows"] = {"originals": 8, "retrained": 8, "split": [3, 2, 3], "unlearn": "all"}
    document["methods"] = [{**TINY["methods"][0], "gamma": 0.9}, {"name": "eu_k", "k": 1}]
    document["attacks"] = [{"name": "xgboost", **QUICK}] + [{"name": name} for name in ATTACKS if name != "xgboost"]
    return document


def classes_removed() -> dict[str, Any]:
    document = trained()
    document["scenario"] = {"kind": "classes", "classes": [0, 3]}
    document["methods"] = [{"name": "eu_k", "k": 1}]
    document["attacks"] = [{"name": "xgboost", **QUICK}, {"name": "entropy_threshold"}]
    return document


def one_model_under_test() -> dict[str, Any]:
    """Retrain's one model cannot be compared; the originals, all of which can, do not wait for it."""
    document = trained()
    document["shadows"] = {"originals": 4, "retrained": 4, "split": [2, 1, 1]}
    document["methods"] = [{"name": "eu_k", "k": 1}]
    document["attacks"] = [{"name": "xgboost", **QUICK}, {"name": "lira"}]
    return document


RECIPES = {"every attack": every_attack, "classes removed": classes_removed, "one model": one_model_under_test}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunResult]:
    """Returns the run of one of the recipes, made when it is asked for first."""

    @cache
    def run_of(name: str) -> RunResult:
        options = RunOptions(tmp_path_factory.mktemp("run"), address="inline", quiet=True)
        result = run(check_recipe(RECIPES[name]()), options)
        assert result.failed == 0, [row.get("error") for row in result.document["rows"]]
        return result

    return run_of


@pytest.fixture(scope="module", params=RECIPES)
def both(request: pytest.FixtureRequest, finished: Callable[[str], RunResult]) -> tuple[str, RunResult, list[dict]]:
    """A finished run, and the rows of an audit of what it wrote to `outputs/`."""
    result = finished(request.param)
    source = ParquetFiles(tuple(sorted(map(str, (result.folder / "outputs").glob("*.parquet")))))
    recipe = result.document["recipe"]
    names = [settings["name"] for settings in recipe["attacks"]]
    return request.param, result, run_attacks(source, names, recipe["seed"], settings={"xgboost": QUICK})


def pairs(both: tuple[str, RunResult, list[dict]]) -> list[tuple[dict, dict]]:
    def key(row: dict) -> str:
        return f"{row['method']} {sorted(row['params'].items())}"

    mine = {key(row): row for row in both[1].document["rows"]}
    assert set(mine) == {key(row) for row in both[2]}
    return [(mine[key(row)], row) for row in both[2]]


def test_every_metric_of_an_audit_is_in_the_runs_rows(both: tuple[str, RunResult, list[dict]]) -> None:
    for mine, theirs in pairs(both):
        assert ("u_lira/auc" in mine["metrics"]) == (both[0] == "every attack" and mine["method"] != "retrain"), (
            "it compares models unlearned by one method, or by one that does nothing"
        )
        assert set(theirs["metrics"]) <= set(mine["metrics"])
        assert theirs["metrics"] == pytest.approx({name: mine["metrics"][name] for name in theirs["metrics"]})
        assert set(theirs["ci"]) <= set(mine["ci"])
        for name in theirs["ci"]:
            low, high = mine["ci"][name]
            assert low - 1e-9 <= mine["metrics"][name] <= high + 1e-9, name
        assert set(theirs) <= set(mine)
        for name in ("distance_models", "models", "retrained_models"):
            assert mine[name] == theirs[name], name
        assert set(theirs["notes"]) <= set(mine["notes"])


def test_the_samples_that_stand_out_are_the_same(both: tuple[str, RunResult, list[dict]]) -> None:
    for mine, theirs in pairs(both):
        assert set(mine["worst_samples"]) == set(theirs["worst_samples"])
        for name, samples in theirs["worst_samples"].items():
            found = mine["worst_samples"][name]
            assert [sample["sample_id"] for sample in found] == [sample["sample_id"] for sample in samples], name
            assert found == [pytest.approx(sample) for sample in samples]


def test_differences_to_retrain_are_paired_as_an_audits_are(both: tuple[str, RunResult, list[dict]]) -> None:
    """By another seed of its own: the intervals are the same but for what 2,000 draws leave to chance."""
    compared = 0
    for mine, theirs in pairs(both):
        names = {name for name in mine["metrics"] if name.endswith("auc_minus_retrain")}
        assert names == {name for name in theirs["metrics"] if name.endswith("auc_minus_retrain")}
        if mine["method"] == "retrain":
            assert not names
        for name in names:
            auc = name.removesuffix("_minus_retrain")
            retrain = next(row for row in both[1].document["rows"] if row["method"] == "retrain")
            assert mine["metrics"][name] == pytest.approx(theirs["metrics"][name])
            if auc != "u_lira/auc":  # its attacker of this row was put to Retrain's models: they have no row of its own
                assert mine["metrics"][name] == pytest.approx(mine["metrics"][auc] - retrain["metrics"][auc])
            assert (name in mine["ci"]) == (name in theirs["ci"]) == (retrain["models"] > 1)
            if name in mine["ci"]:
                assert mine["ci"][name] == pytest.approx(theirs["ci"][name], abs=0.06), name
                compared += 1
    assert compared == {"every attack": 3 * len(ATTACKS), "classes removed": 2 * 2, "one model": 0}[both[0]]


def test_distances_are_over_equally_many_models_or_null_with_a_note(both: tuple[str, RunResult, list[dict]]) -> None:
    name, result, _ = both
    rows = {row["method"]: row for row in result.document["rows"]}
    measured = {method: row["metrics"]["klom/p95"] for method, row in rows.items()}
    counts = {method: row["distance_models"] for method, row in rows.items()}
    if name == "every attack":
        assert set(counts.values()) == {3}
        assert all(value > 0 for value in measured.values())
        assert rows["eu_k"]["metrics"]["forgetting_quality/score"] > 0
    if name == "classes removed":
        assert set(measured.values()) == {None}
        assert rows["eu_k"]["metrics"]["forgetting_quality/score"] is None
        assert all(any("klom: not measured: " in note for note in row["notes"]) for row in rows.values())
        assert rows["no_unlearn"]["metrics"]["ks_log_entropy"] > 0
    if name == "one model":
        assert counts == {"no_unlearn": 4, "retrain": 1, "eu_k": 1}
        assert measured["no_unlearn"] is not None
        assert measured["retrain"] is None
        assert any("klom: not measured: role: 1 unlearned models" in note for note in rows["eu_k"]["notes"])


def test_verdicts_are_the_same(both: tuple[str, RunResult, list[dict]]) -> None:
    for mine, theirs in pairs(both):
        assert mine["verdict"] == theirs["verdict"]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_terminal_shows_it_all_within_its_width(both: tuple[str, RunResult, list[dict]], width: int) -> None:
    from rich.console import Console

    stream = io.StringIO()
    Console(width=width, file=stream).print(terminal_table(both[1].document))
    text = stream.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    groups = {(row["access"], row["validation"]) for row in both[1].document["rows"] if "access" in row}
    lines = text.splitlines()
    assert sum(line.startswith("sees D_f,") for line in lines) == len(groups), "in the first table alone"
    rest = "\n".join(line for line in lines if line[:5] != "sees " and line.strip() not in ("D_r", "moments"))
    for head in ("Retrain's", "D_f", "D_r", "s per", "KS of", "verdict"):
        assert rest.count(head) == 1, f"{head}\n{text}"
    assert ("mean score" in text) == (both[0] != "classes removed")
    assert text.count("\nEU-k") == (1 if width == 160 and both[0] != "every attack" else text.count("\nRetrain"))


def planned(document: dict[str, Any]) -> Plan:
    recipe = check_recipe(copy.deepcopy(document))
    return make_plan(recipe, load_data(recipe, None))


def ids(row: Row, side: str) -> list[str]:
    assert row.distance is not None
    return [outputs.model_id for outputs in getattr(row.distance.spec, side)]


def test_retrain_is_compared_with_other_models_than_its_own() -> None:
    rows = {row.method: row for row in planned(TINY).rows}
    assert ids(rows["retrain"], "models") == ["retrain-000", "retrain-001"]
    for row in rows.values():
        assert ids(row, "retrained") == ids(row, "negative") == ["retrained-003", "retrained-004"]
    assert ids(rows["no_unlearn"], "models") == ["original-003", "original-004"], "those under attack come first"
    assert rows["no_unlearn"].distance.spec.originals == ()  # type: ignore[union-attr]
    assert ids(rows["eu_k"], "originals") == ["original-003", "original-004"]


def test_a_row_is_measured_alike_whatever_other_rows_there_are(tiny: dict[str, Any]) -> None:
    before = {row.distance.key for row in planned(tiny).rows}  # type: ignore[union-attr]
    tiny["methods"].pop()
    assert {row.distance.key for row in planned(tiny).rows} < before  # type: ignore[union-attr]


def test_without_retrained_models_there_is_nothing_to_measure_a_distance_to(tiny: dict[str, Any]) -> None:
    tiny |= {"attacks": [], "shadows": {"originals": 3, "retrained": 0, "split": [0, 0, 3]}}
    plan = planned(tiny)
    assert plan.stages["score"] == ()
    assert all(row.distance is None and row.measures == () for row in plan.rows)


def test_stored_measures_of_before_are_not_taken_for_new_ones(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {unit.key for unit in planned(tiny).stages["score"]}
    monkeypatch.setattr(measuring, "MEASURES", measuring.MEASURES + 1)
    assert not before & {unit.key for unit in planned(tiny).stages["score"]}


@pytest.fixture
def small(finished: Callable[[str], RunResult]) -> tuple[dict[str, Any], Path]:
    """The document and the output folder of the smallest of the runs."""
    return one_model_under_test(), finished("one model").folder


def test_a_distance_is_made_once_and_alone_where_it_is_lost(small: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    document, folder = small[0], tmp_path / "copy"
    shutil.copytree(small[1], folder)

    def again() -> dict[str, Any]:
        options = RunOptions(folder, address="inline", quiet=True)
        return run(check_recipe(copy.deepcopy(document)), options).document

    before = json.loads((folder / "results.json").read_text())["rows"]
    found = again()
    assert found["environment"]["work"]["units_executed"] == 0
    assert found["rows"] == before
    unit = planned(document).rows[0].distance
    assert unit is not None
    LocalStore(folder / "store").remove(unit.key)
    found = again()
    assert found["environment"]["work"]["units_executed"] == 1
    assert found["rows"] == before


def test_a_row_whose_distance_is_missing_says_so(small: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    document, folder = small[0], tmp_path / "copy"
    shutil.copytree(small[1], folder)
    plan = planned(document)
    store = LocalStore(folder / "store")
    unit = plan.rows[2].distance
    assert unit is not None
    store.remove(unit.key)
    data = load_data(check_recipe(copy.deepcopy(document)), None)
    rows, _ = collect(plan, data, store, {unit.key: "it broke"})
    assert [row.status for row in rows] == ["done", "done", "failed"]
    assert rows[2].error == "distances of eu_k(k=1): it broke"
    assert "klom/p95" not in rows[2].metrics


@pytest.mark.parametrize("change", ["negative", "fit", "params", "candidate"])
def test_scores_by_two_attackers_are_not_subtracted(
    change: str, small: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """Of the same name, but fitted on or compared with other models, or another candidate chosen."""
    plan, store = planned(small[0]), LocalStore(small[1] / "store")
    mine, theirs = plan.rows[2].scores[1], plan.rows[1].scores[1]
    data = load_data(check_recipe(copy.deepcopy(small[0])), None)

    def collected(other: Any, stored: Any) -> ResultRow:
        changed = replace(plan.rows[1], scores=(plan.rows[1].scores[0], other))
        rows, _ = collect(replace(plan, rows=(plan.rows[0], changed, plan.rows[2])), data, stored, {})
        return rows[2]

    note = "lira: no difference to Retrain: another fitted attacker scored that row"
    alike = collected(theirs, store)
    assert alike["lira/auc_minus_retrain"].known
    assert note not in alike.notes
    other, stored = theirs, store
    if change == "candidate":
        stored = CandidatesOf(small[1] / "store", {mine.key: "one", theirs.key: "another"})
    else:
        other = Renamed(replace(theirs.spec, **{change: ()}), theirs.name, theirs.label, theirs.needs, theirs.cost)
        other.__dict__["key"] = theirs.key
    found = collected(other, stored)
    assert note in found.notes
    assert "lira/auc_minus_retrain" not in found.metrics


class CandidatesOf(LocalStore):
    """A store whose scores say that other candidates were chosen for them."""

    def __init__(self, folder: Path, chosen: dict[str, str]):
        super().__init__(folder)
        self.chosen = chosen

    def meta(self, key: str) -> dict[str, Any]:
        found = super().meta(key)
        return {**found, "candidate": self.chosen[key]} if key in self.chosen else found


class Renamed(Unit):
    """A unit that keeps the key of another one, so that what that one stored is found."""


def distances_of(folder: Path, *, shifts: Sequence[float] = (0.0, 0.0), bad: bool = False) -> dict[str, Any]:
    """The distances of two models whose logits are their originals' plus a shift of one class."""
    generator = np.random.default_rng(0)
    sample_ids, labels = np.arange(20), np.arange(20) % 4
    items: dict[str, list[Outputs]] = {}
    made: dict[str, np.ndarray] = {}
    for role in ("original", "retrained", "unlearned"):
        items[role] = []
        for number in range(2):
            key = f"{role}-{number}"
            logits = generator.normal(size=(20, 4))
            if role == "unlearned":
                logits = made[f"original-{number}"] + shifts[number] * np.eye(4)[1]
            if bad:
                logits[3, 2] = np.nan
            made[key] = logits
            write_fragment(folder / f"{key}.parquet", sample_ids, labels, logits)
            items[role].append(Outputs(key, role, "test", key))
    original, retrained, unlearned = (tuple(items[role]) for role in ("original", "retrained", "unlearned"))
    spec = DistanceSpec(
        tested=unlearned,
        models=unlearned,
        originals=original,
        negative=retrained,
        retrained=retrained,
        divergences=(("klom", KLoM(bins=5)),),
        measures=0,
    )
    store: Any = SimpleNamespace(fetch=lambda key, name: folder / f"{key}.parquet")
    return measure_distances(Unit(spec, "distances"), store)


def test_a_method_that_did_nothing_is_named(tmp_path: Path) -> None:
    assert UNCHANGED in distances_of(tmp_path)["notes"]
    changed = distances_of(tmp_path, shifts=(0.0, 0.5))
    assert UNCHANGED not in changed["notes"], "one of its models is another"
    assert set(changed["metrics"]) == {"ks_log_entropy", "klom/mean", "klom/p95"}, "the settings of the unit count"
    assert changed["notes"] == ["klom: 2 models fill 5 bins badly; read it against Retrain's value"]


def test_logits_that_are_no_numbers_are_no_distance(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"logits: 6 rows are not finite, the first for sample_id 3 of model"):
        distances_of(tmp_path, bad=True)
