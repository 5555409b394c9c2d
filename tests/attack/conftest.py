"""A table of shadow models' outputs, and a server of S3, for the tests of the distributed attacker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from .build import pool


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return pool(models=20, samples=300, shift=1.0, folds=(0.5, 0.7), difficulty=0.5, references=False)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """An S3 server on loopback, as a function that uploads files into a bucket and returns their names and file system."""
    server_module = pytest.importorskip("moto.server")
    import boto3
    from pyarrow.fs import S3FileSystem

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", **keys)

    def upload(paths: list[Path], bucket: str) -> tuple[list[str], Any]:
        client.create_bucket(Bucket=bucket)
        for path in paths:
            client.upload_file(str(path), bucket, path.name)
        filesystem = S3FileSystem(
            access_key="test", secret_key="test", endpoint_override=f"{host}:{port}", scheme="http", region="us-east-1"
        )
        return [f"{bucket}/{path.name}" for path in paths], filesystem

    yield upload
    server.stop()
