"""A whole experiment in this process: rows, files, failures, damage, and the same numbers however it came about."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from orchestrator.base.errors import EnvironmentFault
from orchestrator.experiments.run import RunOptions, RunResult, run
from orchestrator.recipe.recipe import check_recipe
from orchestrator.records.folder import OutputFolder
from orchestrator.report.rows import Report
from orchestrator.store import LocalStore

TIMING = {"seconds", "seconds_per_model", "speedup_vs_retrain"}


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what a clock decides."""
    clean = copy.deepcopy(rows)
    for row in clean:
        row.pop("seconds")
        for name in TIMING & set(row["metrics"]):
            del row["metrics"][name]
        for about in row["attacks"].values():
            about.pop("seconds", None)
    return clean


def go(document: dict[str, Any], folder: Path, **options: Any) -> RunResult:
    return run(check_recipe(copy.deepcopy(document)), RunOptions(folder, address="inline", quiet=True, **options))


@pytest.fixture(scope="module")
def finished(tiny_run: RunResult) -> RunResult:
    return tiny_run


def test_rows_and_metrics(finished: RunResult) -> None:
    rows = finished.document["rows"]
    assert [row["method"] for row in rows] == ["no_unlearn", "retrain", "pgu", "pgu", "eu_k"]
    assert all(row["status"] == "done" for row in rows)
    for row in rows:
        metrics = row["metrics"]
        assert 0 <= metrics["auc"] <= 1
        low, high = row["ci"]["auc"]
        assert low <= metrics["auc"] <= high
        for name in ("error_forget", "error_retain", "error_test", "error_val"):
            assert 0 <= metrics[name] <= 100
        assert isinstance(metrics["streisand"], bool)
        assert metrics["tpr_at_fpr_0.001"] is None, "100 negatives cannot measure one in a thousand"
        assert row["verdict"].startswith("Not decided: 2 independent models on a side are too few")
        assert metrics["streisand"] is False
    assert {judgement.word for judgement in Report.load(finished.folder).judgements} == {"undecided"}
    assert rows[0]["metrics"]["seconds_per_model"] is None
    assert rows[1]["metrics"]["speedup_vs_retrain"] == pytest.approx(1.0)
    assert finished.document["schema"] == 1
    assert finished.document["environment"]["attack"]["path"] == "in_process"
    assert set(finished.document["stages"]) >= {"train", "unlearn", "outputs", "attack", "score"}


def test_outputs_have_the_schema_that_audits_read(finished: RunResult) -> None:
    files = sorted((finished.folder / "outputs").glob("*.parquet"))
    kinds = [f.name.split("-")[0] for f in files]
    assert kinds == ["original.parquet", "retrained.parquet"] + ["unlearned"] * 4 + ["unseen.parquet"]
    tables = [pq.read_table(f) for f in files]
    columns = ["model_id", "role", "method", "params", "fold", "sample_id", "label", "logits"]
    for file, table in zip(files, tables, strict=True):
        unseen = file.name == "unseen.parquet"
        made = file.name.startswith("unlearned-") and "retrain" not in file.name
        assert table.column_names == [*columns, *["set"] * unseen, *["parent"] * made], file.name
        assert str(table.schema.field("logits").type).startswith("fixed_size_list<")
        assert table.schema.field("sample_id").type == "int64"
        samples = 100 if unseen else 50  # all test images, or the forget set
        ids = table["sample_id"].to_numpy().reshape(-1, samples)
        assert len(ids) == len(set(zip(*(table[name].to_pylist() for name in columns[:5]), strict=True)))
        assert (np.diff(ids, axis=1) > 0).all(), "ordered by sample id within each model"
        assert (ids == ids[0]).all()
        if made:
            assert set(table["parent"].to_pylist()) == {"original-003", "original-004"}
    sets = np.asarray(tables[-1]["set"].to_pylist()).reshape(-1, 100)
    assert (sets == sets[0]).all()
    assert sorted(sets[0]) == ["test"] * 50 + ["validation"] * 50
    attacked = {m for t in tables[2:-1] for m in t["model_id"].to_pylist()} | {"original-003", "original-004"}
    assert set(tables[-1]["model_id"].to_pylist()) == attacked, "all that are attacked, and no others"
    originals = tables[0]
    folds = dict(zip(originals["model_id"].to_pylist(), originals["fold"].to_pylist(), strict=True))
    assert list(folds.values()) == ["train", "train", "validation", "test", "test"]
    retrain = next(t for f, t in zip(files, tables, strict=True) if "retrain" in f.name and "unlearned" in f.name)
    known = set(tables[1]["model_id"].to_pylist())
    assert not known & set(retrain["model_id"].to_pylist()), "Retrain is measured on models that no attacker has seen"


def test_a_second_run_only_reads(finished: RunResult, tiny_copy: Path) -> None:
    from .conftest import TINY

    again = go(TINY, tiny_copy)
    assert again.document["environment"]["work"]["units_executed"] == 0
    assert again.document["rows"] == finished.document["rows"]


def test_alone_or_in_any_order_a_model_is_the_same_to_the_bit(finished: RunResult, tmp_path: Path) -> None:
    from orchestrator.plan.data import load_data
    from orchestrator.plan.plan import make_plan
    from orchestrator.work.context import Context
    from orchestrator.work.execute import execute

    from .conftest import TINY

    recipe = check_recipe(copy.deepcopy(TINY))
    data = load_data(recipe, None)
    plan = make_plan(recipe, data)
    stored = LocalStore(finished.folder / "store")
    fresh = LocalStore(tmp_path / "store")
    context = Context(fresh, data)
    for unit in [plan.stages["unlearn"][3], plan.stages["train"][7], plan.stages["train"][0]]:
        assert not execute(unit, context).failed
        assert (
            fresh.fetch(unit.key, "model.safetensors").read_bytes()
            == stored.fetch(unit.key, "model.safetensors").read_bytes()
        )


def test_damage_is_recomputed_alone_to_the_same_result(finished: RunResult, tmp_path: Path) -> None:
    import shutil

    from orchestrator.plan.data import load_data
    from orchestrator.plan.plan import make_plan

    from .conftest import TINY

    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder)
    recipe = check_recipe(copy.deepcopy(TINY))
    plan = make_plan(recipe, load_data(recipe, None))
    store = LocalStore(folder / "store")
    model = store.fetch(plan.stages["train"][3].key, "model.safetensors")
    model.write_bytes(model.read_bytes()[:100])
    scores = [unit for unit in plan.stages["score"] if unit.kind == "score"]
    store.fetch(scores[1].key, "curves.json").unlink()
    again = go(TINY, folder)
    assert again.document["environment"]["work"]["units_executed"] == 2
    assert untimed(again.document["rows"]) == untimed(finished.document["rows"])


@pytest.mark.medium
def test_one_failed_unit_is_a_row_that_says_why(tiny: dict[str, Any], tmp_path: Path) -> None:
    # A step size that destroys the model within one pass: this method fails, everything else is finished.
    tiny["methods"] = [{"name": "cf_k", "k": 1, "lr": 1e30, "final_lr": 1e30, "epochs": 3}, {"name": "eu_k", "k": 1}]
    result = go(tiny, tmp_path / "out")
    rows = {row["method"]: row for row in result.document["rows"]}
    assert result.failed == 1
    assert rows["cf_k"]["status"] == "failed"
    assert rows["cf_k"]["metrics"]["auc" if "auc" in rows["cf_k"]["metrics"] else "error_test"] is None
    assert "cf_k" in rows["cf_k"]["error"]
    assert all(rows[name]["status"] == "done" for name in ("no_unlearn", "retrain", "eu_k"))
    failures = OutputFolder(tmp_path / "out").failures()
    assert len(failures) == 2
    tiny["methods"][0] |= {"lr": 0.01, "final_lr": 0.01}
    mended = go(tiny, tmp_path / "out")
    assert mended.failed == 0


def test_a_failure_that_somebody_else_mended_holds_nothing_back(finished: RunResult, tmp_path: Path) -> None:
    """A model recorded as failed here, and made since by another experiment in the same store: what needs it runs."""
    import shutil

    from orchestrator.plan.data import load_data
    from orchestrator.plan.plan import make_plan

    from .conftest import TINY

    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder)
    recipe = check_recipe(copy.deepcopy(TINY))
    plan = make_plan(recipe, load_data(recipe, None))
    model = next(unit for unit in plan.stages["train"] if unit.label.role == "original")
    children = [unit for unit in plan.stages["outputs"] if model in unit.needs]
    event = {"event": "unit", "stage": "train", "unit": model.key, "name": model.name, "status": "failed", "error": "x"}
    OutputFolder(folder).append_event(event)
    LocalStore(folder / "store").remove(children[0].key)
    again = go(TINY, folder)
    assert again.failed == 0
    assert again.document["environment"]["work"]["units_executed"] == 1
    assert untimed(again.document["rows"]) == untimed(finished.document["rows"])


def test_two_runs_on_one_folder_are_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    folder.create()
    folder.lock()
    with pytest.raises(EnvironmentFault, match="another run is at work"):
        go(tiny, tmp_path)
    folder.unlock()


@pytest.mark.medium
def test_removing_classes(tiny: dict[str, Any], tmp_path: Path) -> None:
    from attack.audit.audit import check
    from attack.outputs.sources import ParquetFiles

    tiny["scenario"] = {"kind": "classes", "classes": [0, 3]}
    tiny["methods"] = [
        {"name": "eu_k", "k": 1},
        {"name": "pgu", "gamma": 0.9, "lr": 0.01, "final_lr": 0.01, "epochs": 2, "early_stop": None},
    ]
    nothing = {"name": "pgu", "gamma": 0.9, "stop_after": 0, "early_stop": None}
    tiny["methods"].append(nothing)
    tiny["training"]["epochs"] = 9  # a model that errs, also into the forgotten classes
    result = go(tiny, tmp_path / "out")
    assert result.failed == 0, [row.get("error") for row in result.document["rows"]]
    rows = {row["method"]: row for row in reversed(result.document["rows"])}
    only_cut = next(row for row in result.document["rows"] if row["params"].get("stop_after") == 0)
    for metric in ("error_retain", "error_test"):
        assert only_cut["metrics"][metric] == rows["no_unlearn"]["metrics"][metric] > 0, (
            "to lose the forgotten classes' outputs is no gain on the others"
        )
    assert rows["no_unlearn"]["metrics"]["error_forget"] < 100.0
    assert rows["eu_k"]["metrics"]["error_forget"] == 100.0
    assert rows["pgu"]["metrics"]["error_forget"] == 100.0, "its outputs for the forgotten classes are gone"
    for file in (tmp_path / "out" / "outputs").glob("*.parquet"):
        table = pq.read_table(file)
        assert table.schema.field("logits").type.list_size == 8, "every model shows the attacker the kept classes only"
        assert set(table["label"].to_pylist()) == {0, 3}
    source = ParquetFiles(tuple(sorted(map(str, (tmp_path / "out" / "outputs").glob("*.parquet")))))
    assert any("class 0 was dropped" in str(problem) for problem in check(source, ["loss_threshold"]))
    assert check(source, ["xgboost"]) == []


@pytest.mark.medium
def test_poison(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["scenario"] = {"kind": "poison", "count": 20}
    tiny["methods"] = [{"name": "eu_k", "k": 1}]
    result = go(tiny, tmp_path / "out")
    assert result.failed == 0, [row.get("error") for row in result.document["rows"]]
    assert result.document["environment"]["split"]["forget"] == 20


@pytest.mark.medium
def test_incremental_steps_are_forgotten_one_after_another(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["scenario"] = {"kind": "incremental", "step": 2, "steps": 3}
    pgu = {"name": "pgu", "gamma": 0.9, "lr": 0.01, "final_lr": 0.01, "epochs": 2, "early_stop": None}
    tiny["methods"] = [pgu, {"name": "eu_k", "k": 1}]
    result = go(tiny, tmp_path / "out")
    assert result.failed == 0, [row.get("error") for row in result.document["rows"]]
    assert result.document["environment"]["split"]["forget"] == 60
    store = LocalStore(tmp_path / "out" / "store")
    metas = [store.meta(key) for key in list(store.keys())]
    done = [meta for meta in metas if meta["kind"] == "unlearn" and meta["spec"]["method"] == "pgu"]
    assert len(done) == 2
    for meta in done:
        assert [row["step"] for row in meta["steps"]] == [0, 1, 2, 3]
        assert [row["forgotten"] for row in meta["steps"]] == [0, 20, 40, 60]
        assert all(0 <= row["test_accuracy"] <= 1 for row in meta["steps"])
        assert max(row["epoch"] for row in meta["history"]) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", [pytest.param(0.25, marks=pytest.mark.long), 0.5, pytest.param(0.8, marks=pytest.mark.long)]
)
def test_killed_and_resumed_gives_the_same_rows(finished: RunResult, tmp_path: Path, moment: float) -> None:
    """SIGKILL when a share of the units is done; resumed, nothing that was finished runs again."""
    from .conftest import TINY

    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(TINY))
    folder = OutputFolder(tmp_path / "out")
    total = sum(
        1
        for event in OutputFolder(finished.folder).events()
        if event.get("event") == "unit" and event["status"] == "done"
    )
    command = [
        sys.executable,
        "-m",
        "tests.few_figures",
        "run",
        str(recipe),
        "--output",
        str(folder.path),
        "--address",
        "inline",
        "--quiet",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if sum(event.get("event") == "unit" for event in folder.events()) >= moment * total:
            break
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done_before = {
        event["unit"] for event in folder.events() if event.get("event") == "unit" and event["status"] == "done"
    }
    assert 0 < len(done_before) < total
    resumed = go(TINY, folder.path)
    executed: list[str] = [
        event["unit"] for event in folder.events() if event.get("event") == "unit" and event["status"] == "done"
    ]
    assert len(executed) == len(set(executed)), "a finished unit ran twice"
    assert json.dumps(untimed(resumed.document["rows"])) == json.dumps(untimed(finished.document["rows"]))


def test_methods_are_handed_the_workers_captured_steps_where_they_take_them(tiny: dict[str, Any]) -> None:
    from orchestrator.plan.data import load_data
    from orchestrator.work.context import Context
    from orchestrator.work.inputs import method_inputs
    from unlearn import METHODS

    context = Context(None, load_data(check_recipe(tiny), None))
    assert method_inputs(METHODS["eu_k"](k=1), context, 0)["graphs"] is context.graphs
    assert "graphs" not in method_inputs(METHODS["pgu"](gamma=0.9, early_stop=None), context, 0)
