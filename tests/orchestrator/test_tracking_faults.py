"""MLflow under fire: whatever the server does, training goes on, nothing is lost, and each unit has one run in the end."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.experiments.run import RunOptions, RunResult, run
from orchestrator.recipe.recipe import check_recipe
from orchestrator.records import mlflow_writer as tracking

from .fault_proxy import FaultProxy
from .test_tracking import SERVER, free_port, runs_of, start_server, stop_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    process = start_server(tmp_path_factory.mktemp("server"), port)
    yield port
    stop_server(process)


@pytest.fixture(scope="module")
def finished(tiny_run: RunResult) -> Path:
    """An experiment whose units are all stored and none logged: a run with its store only logs."""
    return tiny_run.folder


@pytest.fixture
def proxy(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "PATIENCE_SECONDS", 3.0)
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.2)
    proxy = FaultProxy(server)
    yield proxy
    proxy.close()


def go(tiny: dict[str, Any], uri: str, name: str, store: Path, folder: Path) -> RunResult:
    tiny["tracking"] = {"uri": uri, "experiment": name}
    return run(check_recipe(tiny), RunOptions(folder, store=str(store / "store"), address="inline", quiet=True))


def check(uri: str, name: str) -> None:
    """One finished run for each unit and row, each metric point once."""
    from mlflow.tracking import MlflowClient

    found: dict[str, list[Any]] = {}
    for entry in runs_of(uri, name):
        found.setdefault(entry.data.tags["orchestrator.kind"], []).append(entry)
        assert entry.info.status == "FINISHED", (entry.info.run_name, entry.info.status)
    counts = {kind: len(entries) for kind, entries in found.items() if kind != "attack"}
    assert counts == {"experiment": 1, "train": 12, "unlearn": 6, "result": 5}
    keys = [entry.data.tags["orchestrator.unit"] for kind in found for entry in found[kind] if kind != "experiment"]
    assert len(set(keys)) == len(keys)
    (parent,) = found["experiment"]
    assert parent.data.params["training.epochs"] == "4"
    client = MlflowClient(tracking_uri=uri)
    assert "recipe.yaml" in {item.path for item in client.list_artifacts(parent.info.run_id)}
    for entry in found["train"]:
        assert [m.step for m in client.get_metric_history(entry.info.run_id, "loss")] == [1, 2, 3, 4]
    for entry in found["result"]:
        assert len(client.get_metric_history(entry.info.run_id, "error_test")) == 1


def every(number: int, what: str | float) -> Any:
    count = 0

    def fault(method: str, path: str) -> str | float:
        nonlocal count
        count += 1
        return what if count % number == 0 else ""

    return fault


@pytest.mark.long
@pytest.mark.parametrize("what", ["500", "lost"])
def test_a_server_that_fails_now_and_then(
    tiny: dict[str, Any], proxy: FaultProxy, finished: Path, tmp_path: Path, what: str
) -> None:
    """Of a lost answer the server knows and we do not: what it made is found instead of made again."""
    name = f"now-and-then-{what}"
    proxy.fault = every(7, what)
    for _ in range(4):
        result = go(tiny, proxy.uri, name, finished, tmp_path / "out")
        assert result.failed == 0
        if (tmp_path / "out" / "mlflow.json").exists():
            break
    assert sum(fault == what for _, _, fault in proxy.seen) > 3
    proxy.fault = lambda method, path: ""
    go(tiny, proxy.uri, name, finished, tmp_path / "out")
    check(proxy.uri, name)


@pytest.mark.long
def test_every_created_run_loses_its_answer(
    tiny: dict[str, Any], proxy: FaultProxy, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.fault = lambda method, path: "lost" if path.endswith("runs/create") else ""
    assert go(tiny, proxy.uri, "all-lost", finished, tmp_path / "out").failed == 0
    proxy.fault = lambda method, path: ""
    go(tiny, proxy.uri, "all-lost", finished, tmp_path / "out")
    check(proxy.uri, "all-lost")
    assert capsys.readouterr().out == "", "standard output is for results"


@pytest.mark.long
def test_a_server_slower_than_we_wait(tiny: dict[str, Any], proxy: FaultProxy, finished: Path, tmp_path: Path) -> None:
    """It does what was asked, when nobody listens any more; a later invocation finds that, and what came twice goes."""
    proxy.fault = lambda method, path: 3.0
    assert go(tiny, proxy.uri, "slow", finished, tmp_path / "out").failed == 0
    assert not (tmp_path / "out" / "mlflow.json").exists()
    time.sleep(4)
    proxy.fault = lambda method, path: 3.0 if path.endswith("runs/create") else ""
    assert go(tiny, proxy.uri, "slow", finished, tmp_path / "out").failed == 0
    time.sleep(4)
    proxy.fault = lambda method, path: ""
    go(tiny, proxy.uri, "slow", finished, tmp_path / "out")
    check(proxy.uri, "slow")


@pytest.mark.long
def test_away_at_the_start_and_going_away_midway(tiny: dict[str, Any], proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.fault = lambda method, path: "500" if len(proxy.seen) < 5 or 25 < len(proxy.seen) < 40 else ""
    result = go(tiny, proxy.uri, "midway", tmp_path, tmp_path / "out")
    assert result.failed == 0
    assert all(row["status"] == "done" for row in result.document["rows"])
    assert sum(fault == "500" for _, _, fault in proxy.seen) > 5, "it failed both times"
    while len(proxy.seen) < 40:
        go(tiny, proxy.uri, "midway", tmp_path, tmp_path / "out")
    go(tiny, proxy.uri, "midway", tmp_path, tmp_path / "out")
    check(proxy.uri, "midway")


@pytest.mark.long
def test_an_item_that_is_refused_for_ever_holds_no_other_up(
    tiny: dict[str, Any], proxy: FaultProxy, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.records.mlflow_runs import MlflowRuns

    log_unit = MlflowRuns.log_unit

    def refuse(self: MlflowRuns, unit: Any) -> None:
        if unit.name == "original-001":
            raise ValueError("a value that this server does not take")
        log_unit(self, unit)

    monkeypatch.setattr(MlflowRuns, "log_unit", refuse)
    go(tiny, proxy.uri, "refused", finished, tmp_path / "out")
    names = {entry.info.run_name: entry.info.status for entry in runs_of(proxy.uri, "refused")}
    assert "original-001" not in names
    assert "original-002" in names
    assert set(names.values()) == {"FINISHED"}
    assert not (tmp_path / "out" / "mlflow.json").exists()
    monkeypatch.undo()
    go(tiny, proxy.uri, "refused", finished, tmp_path / "out")
    check(proxy.uri, "refused")


@pytest.mark.long
def test_a_locked_sqlite_delays_only_the_log(
    tiny: dict[str, Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 8.0)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    from mlflow.tracking import MlflowClient

    MlflowClient(tracking_uri=uri).search_experiments()
    holder = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert go(tiny, uri, "locked", finished, tmp_path / "out").failed == 0
    assert not (tmp_path / "out" / "mlflow.json").exists()
    holder.rollback()
    holder.close()
    go(tiny, uri, "locked", finished, tmp_path / "out")
    check(uri, "locked")


@pytest.mark.long
@pytest.mark.parametrize("after", ["runs/create", "runs/log-batch", "runs/log-inputs"])
def test_a_driver_killed_between_two_requests(
    tiny: dict[str, Any], proxy: FaultProxy, finished: Path, tmp_path: Path, after: str
) -> None:
    """SIGKILL right after the first request of a kind: what was half logged is completed, once."""
    name = f"killed-{after.replace('/', '-')}"
    tiny["tracking"] = {"uri": proxy.uri, "experiment": name}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    command = [
        sys.executable,
        "-m",
        "orchestrator",
        "run",
        str(tmp_path / "tiny.yaml"),
        "--quiet",
        "--address",
        "inline",
    ]
    command += ["--output", str(tmp_path / "out"), "--store", str(finished / "store")]

    def fault(method: str, path: str) -> str | float:
        if path.endswith(after) and process is not None and process.poll() is None:
            # Forwarded a moment later, when nobody is left to hear of it.
            os.kill(process.pid, signal.SIGKILL)
        return ""

    process: subprocess.Popen[bytes] | None = None
    proxy.fault = fault
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.wait(timeout=120) == -signal.SIGKILL
    time.sleep(0.5)
    statuses = {entry.info.status for entry in runs_of(proxy.uri, name)}
    assert statuses == {"RUNNING"}
    proxy.fault = lambda method, path: ""
    go(tiny, proxy.uri, name, finished, tmp_path / "out")
    check(proxy.uri, name)


@pytest.mark.long
def test_runs_of_a_driver_on_a_machine_that_is_gone(
    tiny: dict[str, Any], proxy: FaultProxy, finished: Path, tmp_path: Path
) -> None:
    """Its parent run was silent for too long: it and its children end as KILLED; one that still beats is left alone."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=proxy.uri)
    experiment = client.create_experiment("gone")
    tags = {"orchestrator.host": "another-machine", "orchestrator.pid": "1", "orchestrator.kind": "experiment"}

    def plant(silent: float) -> list[str]:
        beat = {"orchestrator.heartbeat": str(int(time.time() - silent))}
        parent = client.create_run(experiment, tags={**tags, **beat}).info.run_id
        child = client.create_run(
            experiment, tags={**tags, "orchestrator.kind": "train", "mlflow.parentRunId": parent}
        ).info.run_id
        return [parent, child]

    dead, alive = plant(3600), plant(30)
    go(tiny, proxy.uri, "gone", finished, tmp_path / "out")
    assert {client.get_run(run_id).info.status for run_id in dead} == {"KILLED"}
    assert {client.get_run(run_id).info.status for run_id in alive} == {"RUNNING"}
    for run_id in (*dead, *alive):
        client.delete_run(run_id)
    check(proxy.uri, "gone")


@pytest.fixture(params=["sqlite", SERVER])
def place(request: pytest.FixtureRequest) -> str:
    """The tracking address of a database; of a real server in `make test-slow`."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("mlflow_here"))
    return str(request.getfixturevalue("proxy").uri)


def test_two_parents_and_two_children_of_one_key_become_one(
    tiny: dict[str, Any], place: str, finished: Path, tmp_path: Path
) -> None:
    from mlflow.tracking import MlflowClient

    go(tiny, place, "twins", finished, tmp_path / "out")
    client = MlflowClient(tracking_uri=place)
    runs = runs_of(place, "twins")
    parent = next(entry for entry in runs if entry.data.tags["orchestrator.kind"] == "experiment")
    child = next(entry for entry in runs if entry.info.run_name == "retrained-002")

    def copy_of(entry: Any, **more: str) -> str:
        tags = {k: v for k, v in entry.data.tags.items() if k.startswith(("orchestrator.", "mlflow.parent"))}
        made = client.create_run(entry.info.experiment_id, tags={**tags, **more}, run_name=entry.info.run_name)
        return str(made.info.run_id)

    spare = copy_of(parent)
    copy_of(child, **{"mlflow.parentRunId": spare})
    (tmp_path / "out" / "mlflow.json").unlink()
    go(tiny, place, "twins", finished, tmp_path / "out")
    check(place, "twins")
