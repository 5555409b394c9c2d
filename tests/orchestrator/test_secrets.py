"""Tokens, passwords and keys that a run is given land in nothing that it writes or says."""

from __future__ import annotations

import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.base.text import file_name, holds_credentials, redact
from orchestrator.commands.cli import main
from orchestrator.records import mlflow_writer

SECRETS = ("s3cr3t-password", "s3cr3t-token", "s3cr3t-key")


def test_addresses_are_shown_without_their_credentials() -> None:
    cases = {
        "http://me:pw@host/x": "http://***@host/x",
        "could not reach postgresql://me:p@ss@db:5432/mlflow now": "could not reach postgresql://***@db:5432/mlflow now",
        "https://token@host": "https://***@host",
        "s3://bucket/a@b": "s3://bucket/a@b",
        "https://h/x?a=1&access_token=abc&b=2": "https://h/x?a=1&access_token=***&b=2",
        "sqlite:///mlflow.db": "sqlite:///mlflow.db",
    }
    for text, shown in cases.items():
        assert redact(text) == shown
        assert holds_credentials(text) == (text != shown)
    assert file_name("../../etc/x y") == "_.._etc_x_y"
    assert file_name("...") == "_"


def test_no_secret_lands_in_what_a_run_writes(
    tiny: dict[str, Any],
    tmp_path: Path,
    mlflow_here: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Tokens and keys in the environment, a password in the tracking address: none in any file, log, page or MLflow run."""
    # Nothing answers there; what is told of it must not repeat the password.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tiny["tracking"] = {"uri": "${MLFLOW_PLACE}", "experiment": "secrets"}
    tiny["methods"] = [{"name": "cf_k", "k": 1, "lr": 1e30, "final_lr": 1e30, "epochs": 3}]  # fails, with a traceback
    environment = {
        "MLFLOW_PLACE": f"http://me:{SECRETS[0]}@127.0.0.1:{port}",
        "MLFLOW_TRACKING_TOKEN": SECRETS[1],
        "RAY_AUTH_TOKEN": SECRETS[1],
        "AWS_SECRET_ACCESS_KEY": SECRETS[2],
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "1",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(mlflow_writer, "PATIENCE_SECONDS", 1.0)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny))
    command = ["run", str(recipe), "--address", "inline", "--output", "out"]
    assert main(command) == 1
    said = capfd.readouterr()
    assert "did not take everything" in said.err
    assert "http://***@127.0.0.1" in said.err
    assert "${MLFLOW_PLACE}" in (tmp_path / "out" / "recipe.yaml").read_text(), "looked up again by whoever resumes"
    monkeypatch.setenv("MLFLOW_PLACE", "sqlite:///mlflow.db")
    assert main(command) == 1
    assert sqlite3.connect(tmp_path / "mlflow.db").execute("select count(*) from runs").fetchone()[0] > 10
    texts = {"stderr": said.err.encode(), "stdout": said.out.encode()}
    texts |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(texts) > 40
    for name, content in texts.items():
        for secret in SECRETS:
            assert secret.encode() not in content, f"{secret} in {name}"
