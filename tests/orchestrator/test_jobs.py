"""`orchestrator submit` against a real head with dashboard, job server and token authentication, all on loopback."""

from __future__ import annotations

import json
import os
import secrets
import shlex
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

pytestmark = [pytest.mark.ray, pytest.mark.slow]


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
    job = f"orchestrator jobs {one['submission_id']} --address {address}"
    assert one["next"] == {
        "follow": f"{job} --follow",
        "status": job,
        "stop": f"{job} --stop",
        "fetch": f"read {out} on a machine that shares it",
    }
    second = submit(environment, *common, "--follow")
    assert second.returncode == 0, second.stdout + second.stderr
    assert f"{one['submission_id']}: attached" in second.stdout
    assert "shadow models: 12 to do" in second.stdout
    assert "Traceback" not in second.stdout
    assert "succeeded" in second.stderr
    words = [sys.executable, "-m", "orchestrator", *shlex.split(job)[1:]]
    looked = subprocess.run([*words, "--json"], env=environment, capture_output=True, text=True, timeout=300)
    assert json.loads(looked.stdout)["status"] == "SUCCEEDED"
    stopped = submit(environment, "--stop", one["submission_id"], "--address", address)
    assert stopped.returncode == 0, "a job that has ended is stopped already"
    document = json.loads((out / "results.json").read_text())
    assert all(row["status"] == "done" for row in document["rows"])
    assert document["environment"]["hardware"]["where"].startswith("Ray cluster")
    third = json.loads(submit(environment, *common, "--json").stdout)
    assert third == {**one, "action": "attached", "status": "SUCCEEDED"}
    # Only the recipe travelled, and the driver asked for no GPU and took little memory.
    info = client_of(address, environment, f"client.get_job_info({one['submission_id']!r}).dict()")
    assert info["entrypoint"].startswith("python -m orchestrator run recipe.yaml")
    assert not info.get("driver_num_gpus")
    assert info["runtime_env"]["working_dir"].startswith("gcs://")
    assert "py_modules" not in info["runtime_env"]
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert 0 < next(event["driver_peak_mib"] for event in events if event["event"] == "finished") < 1500


def client_of(address: str, environment: dict[str, str], expression: str) -> Any:
    """Evaluates an expression of `client` in a process that has the head's token, and returns its JSON."""
    code = (
        "import json, sys; from orchestrator.commands.submit import connect; client = connect(sys.argv[1]);"
        f"print(json.dumps({expression}, default=str))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, address], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def long_recipe(tiny: dict[str, Any], path: Path) -> Path:
    """A recipe that is still training shadow models when somebody interferes, with units that finish before."""
    tiny["name"] = path.stem
    tiny["training"] |= {"epochs": 60, "batch_size": 32}
    tiny["methods"] = []
    path.write_text(yaml.safe_dump(tiny))
    return path


def wait_for_units(out: Path, count: int) -> set[str]:
    """Waits until so many units are done and returns their keys."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        done = done_units(out)
        if len(done) >= count:
            return set(done)
        time.sleep(0.2)
    raise AssertionError("no unit was done")


def done_units(out: Path) -> list[str]:
    from orchestrator.records.folder import OutputFolder

    return [e["unit"] for e in OutputFolder(out).events() if e.get("event") == "unit" and e["status"] == "done"]


@pytest.mark.long
def test_two_submit_at_once_the_client_is_killed_and_stop_and_submit_resumes(
    head: tuple[str, dict[str, str]], tiny: dict[str, Any], tmp_path: Path
) -> None:
    address, environment = head
    recipe, out = long_recipe(tiny, tmp_path / "long.yaml"), tmp_path / "out"
    common = [str(recipe), "--address", address, "--output", str(out), "--store", str(tmp_path / "store")]
    command = [sys.executable, "-m", "orchestrator", "submit", *common, "--json"]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    assert {process.returncode for process in both} == {0}
    assert len({answer["submission_id"] for answer in answers}) == 1
    assert sorted(answer["action"] for answer in answers) == ["attached", "submitted"]
    identity = answers[0]["submission_id"]

    follower = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "submit", *common, "--follow"], env=environment, stdout=subprocess.PIPE
    )
    before = wait_for_units(out, 1)
    follower.kill()
    follower.wait()
    stopped = submit(environment, *common, "--stop", "--json")
    assert stopped.returncode == 0, stopped.stderr
    assert json.loads(stopped.stdout) == {"submission_id": identity, "action": "stopped", "status": "STOPPED"}
    assert "no such job is running" in submit(environment, *common, "--stop").stderr

    again = json.loads(submit(environment, *common, "--json").stdout)
    assert again["submission_id"] == f"{identity}-2"
    seen = submit(environment, *common, "--follow")
    assert seen.returncode == 0, seen.stdout + seen.stderr
    assert "already stored" in seen.stdout
    done = done_units(out)
    assert before <= set(done)
    assert len(done) == len(set(done)), "a finished unit ran twice"


@pytest.mark.long
def test_plain_ray_job_submit(head: tuple[str, dict[str, str]], tiny: dict[str, Any], tmp_path: Path) -> None:
    address, environment = head
    tiny["name"], tiny["methods"] = "plain", []
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "plain.yaml").write_text(yaml.safe_dump(tiny))
    command = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", address]
    command += ["--working-dir", str(tmp_path / "job"), "--", "python", "-m", "orchestrator", "run", "plain.yaml"]
    command += ["--address", "auto", "--output", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert all(row["status"] == "done" for row in rows)


def test_without_the_token_it_is_exit_3(head: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, environment = head
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    refused = submit({**environment, "RAY_AUTH_TOKEN_PATH": str(wrong)}, "demo", "--address", address)
    assert refused.returncode == 3
    assert "token" in refused.stderr.lower()
    assert "Traceback" not in refused.stderr


def test_data_that_the_cluster_cannot_read_are_told_before_the_first_unit(
    head: tuple[str, dict[str, str]], tiny: dict[str, Any], tmp_path: Path
) -> None:
    address, environment = head
    away = str(tmp_path / "away" / "photos.parquet")
    tiny["name"], tiny["dataset"] = "away", {"source": "parquet", "train": away, "test": away + ".test"}
    recipe, out = tmp_path / "tiny.yaml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump(tiny))
    done = submit(environment, str(recipe), "--address", address, "--output", str(out))
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.strip().splitlines()
    assert "ended before its first unit: " in line
    assert "dataset.train" in line
    assert away in line
    assert done.stdout == "", "nothing to follow, stop or fetch"
    assert not (out / "events.jsonl").exists()
