"""A recipe small enough to run whole in seconds; a store of each kind."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store import LocalStore, Store, open_store

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "dataset": {"source": "digits", "limit": {"train": 200, "test": 100}},
    "scenario": {"kind": "samples", "per_class": 5},
    "model": {"name": "small_vgg", "width": 0.0625},
    "training": {"lr": 0.05, "final_lr": 0.005, "batch_size": 32, "epochs": 4, "augment": None},
    "shadows": {"originals": 5, "retrained": 5, "split": [2, 1, 2]},
    "methods": [
        {"name": "pgu", "gamma": {"grid": [0.9, 0.5]}, "lr": 0.01, "final_lr": 0.005, "epochs": 3, "early_stop": None},
        {"name": "eu_k", "k": 1},
    ],
    "tracking": {"uri": None},
}


@pytest.fixture
def tiny() -> dict[str, Any]:
    """A fresh copy of the tiny recipe's document."""
    return copy.deepcopy(TINY)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


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
