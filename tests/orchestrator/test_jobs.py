"""`orchestrator submit` against a real head with dashboard, job server and token authentication, all on loopback."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.ray


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray head; yields its dashboard address and the environment that its users need."""
    folder = Path(tempfile.mkdtemp(prefix="orc-head-", dir="/tmp"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    port, dashboard = free_port(), free_port()
    command = [
        str(Path(sys.executable).parent / "ray"),
        "start",
        "--head",
        "--block",
        "--node-ip-address",
        "127.0.0.2",
        "--port",
        str(port),
    ]
    command += [
        "--dashboard-host",
        "127.0.0.1",
        "--dashboard-port",
        str(dashboard),
        "--num-cpus",
        "2",
        "--temp-dir",
        str(folder / "ray"),
        # The job agent's fixed port may be taken by another Ray on this machine.
        "--dashboard-agent-listen-port",
        str(free_port()),
    ]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        for _ in range(240):
            try:
                request = urllib.request.Request(
                    f"{address}/api/version", headers={"Authorization": f"Bearer {token.read_text()}"}
                )
                urllib.request.urlopen(request, timeout=1)
                break
            except OSError:
                assert process.poll() is None, "the head ended"
                time.sleep(0.25)
        yield address, environment
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def submit(environment: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator", "submit", *args]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_submitting_twice_is_once_and_following_sees_it_through(
    head: tuple[str, dict[str, str]], tiny: dict[str, Any], tmp_path: Path
) -> None:
    address, environment = head
    tiny["methods"] = [{"name": "eu_k", "k": 1}]
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny))
    out = tmp_path / "out"
    common = [str(recipe), "--address", address, "--output", str(out), "--store", str(tmp_path / "store")]
    first = submit(environment, *common, "--json")
    assert first.returncode == 0, first.stderr
    one = json.loads(first.stdout)
    assert one["action"] == "submitted"
    second = submit(environment, *common, "--follow")
    assert second.returncode == 0, second.stdout + second.stderr
    assert f"{one['submission_id']}: attached" in second.stdout
    assert "shadow models: 12 to do" in second.stdout
    assert "succeeded" in second.stderr
    document = json.loads((out / "results.json").read_text())
    assert all(row["status"] == "done" for row in document["rows"])
    assert document["environment"]["hardware"]["where"].startswith("Ray cluster")
    third = json.loads(submit(environment, *common, "--json").stdout)
    assert third == {**one, "action": "attached", "status": "SUCCEEDED"}


def test_without_the_token_or_the_head_it_is_exit_3(head: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, environment = head
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    refused = submit({**environment, "RAY_AUTH_TOKEN_PATH": str(wrong)}, "demo", "--address", address)
    assert refused.returncode == 3
    assert "token" in refused.stderr.lower()
    assert "Traceback" not in refused.stderr
    away = submit(environment, "demo", "--address", f"http://127.0.0.1:{free_port()}")
    assert away.returncode == 3
    assert "Traceback" not in away.stderr
    usage = submit(environment, "demo", "--address", "127.0.0.1:6379")
    assert usage.returncode == 2
