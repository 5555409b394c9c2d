"""MLflow: one run for each unit after any number of invocations, nothing lost while the server is away."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.experiments.run import RunOptions, RunResult, run
from orchestrator.recipe.recipe import check_recipe
from orchestrator.records.mlflow_view import best_row, view_link


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    for _ in range(240):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return process
        except OSError:
            time.sleep(0.25)
    process.kill()
    raise RuntimeError("mlflow server did not start")


def stop_server(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=30)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    process = start_server(tmp_path, port)
    yield f"http://127.0.0.1:{port}"
    stop_server(process)


SERVER = pytest.param("server", marks=[pytest.mark.slow, pytest.mark.mlflow_server])


@pytest.fixture(params=["sqlite", SERVER])
def place(request: pytest.FixtureRequest) -> str:
    """The tracking address of an MLflow without runs: a database, and a real server in `make test-slow`."""
    return str(request.getfixturevalue("mlflow_here" if request.param == "sqlite" else "server"))


def runs_of(uri: str, name: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def check_runs(uri: str, document: dict[str, Any]) -> None:
    runs = runs_of(uri, "tiny")
    kinds: dict[str, list[Any]] = {}
    for entry in runs:
        kinds.setdefault(entry.data.tags["orchestrator.kind"], []).append(entry)
    assert {kind: len(entries) for kind, entries in kinds.items() if kind != "attack"} == {
        "experiment": 1,
        "train": 12,
        "unlearn": 6,
        "result": 5,
    }
    assert kinds["attack"]
    assert {entry.info.status for entry in runs} == {"FINISHED"}
    (parent,) = kinds["experiment"]
    assert parent.data.params["seed"] == "3"
    assert parent.data.params["training.epochs"] == "4"
    assert parent.inputs.dataset_inputs[0].dataset.digest == document["environment"]["dataset"]["digest"][:36]
    assert "version.torch" in parent.data.tags
    for entry in runs:
        if entry is not parent:
            assert entry.data.tags["mlflow.parentRunId"] == parent.info.run_id
    row = next(row for row in document["rows"] if row["method"] == "eu_k")
    result = next(entry for entry in kinds["result"] if entry.data.tags["method"] == "eu_k")
    assert result.data.metrics["auc"] == pytest.approx(row["metrics"]["auc"])
    assert result.info.run_name == "eu_k k=1"
    assert {entry.info.run_name for entry in kinds["train"]} >= {"original-000", "retrained-004", "retrain-001"}
    assert kinds["train"][0].data.metrics["loss"] > 0


def test_a_deleted_experiment_is_restored_and_no_lock_file_stays(
    tiny: dict[str, Any], tmp_path: Path, mlflow_here: str, tiny_run: RunResult
) -> None:
    """MLflow keeps the name of an experiment that was deleted, and takes no runs for it."""
    from mlflow.tracking import MlflowClient

    tiny |= {"tracking": {"uri": "sqlite:///mlflow.db"}, "methods": [{"name": "eu_k", "k": 1}]}
    client = MlflowClient(tracking_uri=mlflow_here)
    client.delete_experiment(client.create_experiment("tiny"))
    store = str(tiny_run.folder / "store")
    run(check_recipe(tiny), RunOptions(tmp_path / "out", store=store, address="inline", quiet=True))
    kinds = {entry.data.tags["orchestrator.kind"] for entry in runs_of(mlflow_here, "tiny")}
    assert {"experiment", "train", "unlearn", "result"} <= kinds
    assert not (tmp_path / ".mlflow.db.lock").exists()


def test_embedded_sqlite_keeps_one_run_a_unit(tiny: dict[str, Any], tmp_path: Path, mlflow_here: str) -> None:
    tiny["tracking"] = {"uri": "sqlite:///mlflow.db", "register_best": "mine"}
    options = RunOptions(tmp_path / "out", address="inline", quiet=True)
    document = run(check_recipe(tiny), options).document
    uri = mlflow_here
    check_runs(uri, document)
    run(check_recipe(tiny), options)
    check_runs(uri, document)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    parent = next(entry for entry in runs_of(uri, "tiny") if entry.data.tags["orchestrator.kind"] == "experiment")
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"recipe.yaml", "results.json", "report.html", "figures", "tables"} <= names
    experiment = client.get_experiment_by_name("tiny")
    view = json.loads(experiment.tags["mlflow.sharedViewState.results"])
    assert view["searchFilter"] == "tags.stage = 'result'", "rows that are compared come first"
    assert {"tags.`verdict_word`", "metrics.`auc`", "metrics.`error_test`"} <= set(view["selectedColumns"])
    rows = [entry for entry in runs_of(uri, "tiny") if entry.data.tags.get("stage") == "result"]
    digest = document["environment"]["dataset"]["digest"][:36]
    assert {entry.inputs.dataset_inputs[0].dataset.digest for entry in rows} == {digest}
    assert all(" " not in entry.data.tags["verdict_word"] for entry in rows)
    log = (tmp_path / "out" / "log.jsonl").read_text()
    assert f"/#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=results" in log
    best = best_row(document["rows"])
    versions = client.search_model_versions("name = 'mine'") if best else []
    assert [version.tags["method"] for version in versions] == ([best["method"]] if best else [])
    train = next(entry for entry in runs_of(uri, "tiny") if entry.info.run_name == "original-000")
    assert [metric.step for metric in client.get_metric_history(train.info.run_id, "loss")] == [1, 2, 3, 4]


def test_the_best_row_is_one_that_forgot_and_links_hold_no_secret() -> None:
    def row(method: str, word: str, error: float) -> dict[str, Any]:
        return {"method": method, "metrics": {"verdict_word": word, "error_test": error}}

    rows = [row("retrain", "forgot", 1.0), row("a", "forgot", 9.0), row("b", "forgot", 7.0), row("c", "damaged", 2.0)]
    assert best_row(rows) == rows[2]
    assert best_row(rows[3:]) is None
    assert view_link("http://me:secret@host:5000/", "3").endswith(
        "host:5000/#/experiments/3/runs?viewStateShareKey=results&workflowType=machine_learning"
    )
    assert "secret" not in view_link("http://me:secret@host:5000/", "3")
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in view_link("sqlite:///mlflow.db", "3")


@pytest.mark.long
def test_a_server_that_is_away_costs_nothing_but_delay(tiny: dict[str, Any], tmp_path: Path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    tiny["tracking"] = {"uri": uri}
    options = RunOptions(tmp_path / "out", address="inline", quiet=True)
    first = run(check_recipe(tiny), options)
    assert first.failed == 0, "tracking never fails a unit"
    process = start_server(tmp_path, port)
    try:
        document = run(check_recipe(tiny), options).document
        assert document["environment"]["work"]["units_executed"] == 0
        check_runs(uri, document)
    finally:
        stop_server(process)


def test_runs_of_a_killed_driver_are_closed(
    tiny: dict[str, Any], tmp_path: Path, place: str, tiny_run: RunResult
) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=place)
    experiment = client.create_experiment("tiny")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    tags = {
        "orchestrator.host": socket.gethostname(),
        "orchestrator.pid": str(gone.pid),
        "orchestrator.kind": "experiment",
    }
    orphan = client.create_run(experiment, tags=tags)
    elsewhere = client.create_run(experiment, tags={**tags, "orchestrator.host": "another-machine"})
    tiny["tracking"] = {"uri": place}
    options = RunOptions(tmp_path / "out", store=str(tiny_run.folder / "store"), address="inline", quiet=True)
    document = run(check_recipe(tiny), options).document
    assert client.get_run(orphan.info.run_id).info.status == "KILLED"
    assert client.get_run(elsewhere.info.run_id).info.status == "RUNNING"
    for run_id in (orphan.info.run_id, elsewhere.info.run_id):
        client.delete_run(run_id)
    check_runs(place, document)


def test_a_run_cut_off_while_it_was_logged_is_completed(
    tiny: dict[str, Any], tmp_path: Path, place: str, tiny_run: RunResult
) -> None:
    from mlflow.tracking import MlflowClient

    tiny["tracking"] = {"uri": place}
    options = RunOptions(tmp_path / "out", store=str(tiny_run.folder / "store"), address="inline", quiet=True)
    document = run(check_recipe(tiny), options).document
    client = MlflowClient(tracking_uri=place)
    victim = next(entry for entry in runs_of(place, "tiny") if entry.info.run_name == "original-001")
    client.update_run(victim.info.run_id, status="RUNNING")
    (tmp_path / "out" / "mlflow.json").unlink()
    run(check_recipe(tiny), options)
    check_runs(place, document)
    assert [m.step for m in client.get_metric_history(victim.info.run_id, "loss")] == [1, 2, 3, 4], (
        "logged again, not twice"
    )


def test_two_drivers_of_one_experiment_log_each_unit_once(
    tiny: dict[str, Any], tmp_path: Path, mlflow_here: str, tiny_run: RunResult
) -> None:
    """The same recipe at work with two output folders and so two stores, whose units end at different times."""
    from orchestrator.plan.data import load_data
    from orchestrator.plan.plan import make_plan
    from orchestrator.records.mlflow_runs import MlflowRuns
    from orchestrator.store import LocalStore

    class Later(LocalStore):
        def meta(self, key: str) -> dict[str, Any]:
            found = super().meta(key)
            return {**found, "finished": found["finished"] + 100.0}

    recipe = check_recipe({**tiny, "tracking": {"uri": "sqlite:///mlflow.db"}})
    drivers = []
    for store in (LocalStore(tiny_run.folder / "store"), Later(tiny_run.folder / "store")):
        data = load_data(recipe, store)
        plan = make_plan(recipe, data)
        drivers.append(MlflowRuns(recipe, plan, data, store, tmp_path / "out"))
        drivers[-1].connect()
    units = plan.stages["train"]
    for unit in units:
        for driver in drivers:
            driver.log_unit(unit)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_here)
    logged = [r for r in runs_of(mlflow_here, "tiny") if r.data.tags["orchestrator.kind"] == "train"]
    assert len(logged) == len(units)
    for each in logged:
        assert len(client.get_metric_history(each.info.run_id, "loss")) == tiny["training"]["epochs"]
