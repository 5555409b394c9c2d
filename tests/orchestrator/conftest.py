"""A recipe small enough to run whole in seconds; a store of each kind."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.experiments.run import RunOptions, RunResult, run
from orchestrator.recipe.recipe import check_recipe
from orchestrator.store import LocalStore, Store, open_store
from tests.few_figures import lessen

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "dataset": {"source": "digits", "limit": {"train": 200, "test": 100}},
    "scenario": {"kind": "samples", "per_class": 5},
    "model": {"name": "small_vgg", "width": 0.0625},
    "training": {"lr": 0.05, "final_lr": 0.005, "batch_size": 100, "epochs": 4, "augment": None},
    "shadows": {"originals": 5, "retrained": 5, "split": [2, 1, 2]},
    "methods": [
        {"name": "pgu", "gamma": {"grid": [0.9, 0.5]}, "lr": 0.01, "final_lr": 0.005, "epochs": 3, "early_stop": None},
        {"name": "eu_k", "k": 1},
    ],
    "tracking": {"uri": None},
}


@pytest.fixture(autouse=True, scope="package")
def few_figures() -> Iterator[None]:
    """Reports of runs in this process have one coarse figure: drawing takes longer than a tiny run.

    `tests/report` looks at all figures. `python -m orchestrator` in a process of its own draws them all.
    """
    with pytest.MonkeyPatch.context() as patch:
        lessen(patch)
        yield


@pytest.fixture(scope="package")
def tiny_run(few_figures: None, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """The tiny recipe's finished run, made once. Nobody changes it: a test that wants to takes a copy."""
    options = RunOptions(tmp_path_factory.mktemp("tiny"), address="inline", quiet=True)
    return run(check_recipe(copy.deepcopy(TINY)), options)


@pytest.fixture
def tiny_copy(tiny_run: RunResult, tmp_path: Path) -> Path:
    """A copy of the finished run's folder, with its store."""
    return Path(shutil.copytree(tiny_run.folder, tmp_path / "copy"))


@pytest.fixture(scope="package")
def blank_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs. MLflow takes seconds to make one, so tests copy this."""
    from orchestrator.records.mlflow_server import create_sqlite

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    create_sqlite(path)
    return path


@pytest.fixture
def mlflow_here(blank_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a database of this test's own, in its folder, which is the current one."""
    shutil.copy(blank_mlflow, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def tiny() -> dict[str, Any]:
    """A fresh copy of the tiny recipe's document."""
    return copy.deepcopy(TINY)


@pytest.fixture
def s3(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the S3 server on loopback; `open_store` reads the same variables."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    return boto3.client("s3")


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    client = request.getfixturevalue("s3")
    bucket = f"bucket-{os.urandom(6).hex()}"
    client.create_bucket(Bucket=bucket)
    return open_store(f"s3://{bucket}/deep/prefix")
