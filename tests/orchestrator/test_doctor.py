"""Doctor: each fault, planted, is named with how to mend it; a healthy environment has none."""

from __future__ import annotations

import collections
import json
import os
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands import doctor
from orchestrator.commands.cli import main
from orchestrator.engine.ray import health
from orchestrator.engine.ray.health import facts, judge_machine, judge_worker, leave_probe, read_probe
from orchestrator.store import open_store


@pytest.fixture(scope="module")
def here() -> dict[str, Any]:
    return facts()


def test_a_healthy_node_is_one_good_line(here: dict[str, Any]) -> None:
    (finding,) = judge_worker("worker", {**here, "skew": 0.2, "store": "read"}, here, 0, "/shared")
    assert finding.ok
    assert "sees the store" in finding.found


@pytest.mark.parametrize(
    ("planted", "words", "mend"),
    [
        ({"versions": {"torch": "2.0"}}, "torch 2.0 instead of", "requirements.lock"),
        ({"versions": {}}, "ray missing instead of", "requirements.lock"),
        ({"python": "3.8.1"}, "Python 3.8.1 instead of", "requirements.lock"),
        ({"code": "0123"}, "another state of this project's code", "--ship-code"),
        ({"skew": -61.0}, "its clock is -61 s off", "NTP"),
        ({"store": "not the same"}, "/shared is another folder there", "every node mounts"),
        ({"store": "store /shared: cannot be created (Read-only file system)"}, "Read-only", "mount or reach"),
        ({"memory": 0.3}, "0.3 GiB of memory", "end other work"),
        ({"scratch_free": 0.1}, "0.1 GiB free in", "TMPDIR"),
        ({"shm": 0.0625}, "/dev/shm has 0.06 GiB", "--shm-size"),
        ({"open_files": 256}, "256 open files", "ulimit -n"),
    ],
)
def test_a_planted_fault_of_a_node_is_found(
    here: dict[str, Any], planted: dict[str, Any], words: str, mend: str
) -> None:
    seen = {**here, "skew": 0.0, "store": "read", **planted}
    findings = judge_worker("worker", seen, here, 0, "/shared")
    assert not any(finding.ok for finding in findings)
    told = next(finding for finding in findings if words in finding.found)
    assert mend in told.mend


def test_gpus_that_torch_does_not_see(here: dict[str, Any]) -> None:
    (finding,) = judge_worker("worker", {**here, "skew": 0.0}, here, gpus=4, store=None)
    assert "Ray has 4 GPUs here, torch sees 0" in finding.found
    assert "CUDA build" in finding.mend


def test_a_store_that_is_not_the_same_is_noticed(tmp_path: Path) -> None:
    key = leave_probe(str(tmp_path / "a"))
    assert read_probe(str(tmp_path / "a"), key)
    assert facts(str(tmp_path / "a"), key)["store"] == "read"
    assert facts(str(tmp_path / "b"), key)["store"] == "not the same"
    (tmp_path / "file").write_text("")
    assert "cannot be" in facts(str(tmp_path / "file" / "store"), key)["store"]
    open_store(str(tmp_path / "a")).remove(key)


def test_a_full_disk_is_noticed(here: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**12, 10**12, 5 * 10**8))
    disk = doctor._machine(here)[0]
    assert not disk.ok
    assert "free some space" in disk.mend
    assert judge_machine("m", facts())[0].ok is False


def test_rays_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert "is not there" in doctor._settings()[0].found
    token.write_text("x")
    token.chmod(0o644)
    assert "can be read by others" in doctor._settings()[0].found
    token.chmod(0o600)
    assert doctor._settings()[0].ok
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * health.LONGEST_RAY_FOLDER)
    assert "too long" in doctor._settings()[-1].found


def test_mlflow_away_locked_or_no_database(tmp_path: Path, mlflow_here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (away,) = doctor._tracking(f"http://me:hidden@127.0.0.1:{port}")
    assert not away.ok
    assert "hidden" not in away.found
    assert "is the server running" in away.mend
    uri = mlflow_here
    (well,) = doctor._tracking(uri)
    assert well.ok
    holder = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    (locked,) = doctor._tracking(uri)
    assert "locked" in locked.found
    assert "another process holds it" in locked.mend
    holder.close()
    (tmp_path / "text.db").write_text("x" * 100)
    assert "no sqlite database" in doctor._tracking(f"sqlite:///{tmp_path}/text.db")[0].found


def test_a_cluster_that_does_not_answer_is_exit_3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away:
        def __init__(self, address: str):
            raise RuntimeError("no head there")

    monkeypatch.setattr("orchestrator.engine.ray.session.RaySession", Away)
    assert main(["doctor", "--address", "127.0.0.1:1", "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    (ray,) = [finding for finding in document["findings"] if finding["what"] == "Ray"]
    assert (ray["ok"], ray["found"]) == (False, "no head there")


def test_on_a_real_ray(ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is well; then every CPU is held and the store cannot be written."""
    from orchestrator.engine.ray.session import RaySession

    monkeypatch.setattr(doctor, "WORKER_SECONDS", 60)
    session = RaySession(None)
    try:

        class Joined:
            """The session above, for the doctor to look at and leave alone."""

            def __init__(self, address: str):
                pass

            def __getattr__(self, name: str) -> Any:
                return getattr(session, name)

            def close(self) -> None:
                pass

        monkeypatch.setattr("orchestrator.engine.ray.session.RaySession", Joined)
        findings = doctor._ray("auto", str(tmp_path / "store"))
        assert [finding.what.split()[0] for finding in findings] == ["Ray", "free", "worker"]
        assert all(finding.ok for finding in findings), findings
        assert list(open_store(str(tmp_path / "store")).keys()) == [], "probes are removed"

        @session.ray.remote
        class Holder:
            def ready(self) -> int:
                return os.getpid()

        holder = Holder.options(num_cpus=session.cpus()).remote()
        session.ray.get(holder.ready.remote())
        try:
            cramped(tmp_path)
        finally:
            session.ray.kill(holder)
    finally:
        session.close()


def cramped(folder: Path) -> None:
    """What doctor finds where no CPU is free and the store cannot be written."""
    (folder / "file").write_text("")
    findings = doctor._ray("auto", str(folder / "file" / "store"))
    bad = {finding.what: finding for finding in findings if not finding.ok}
    assert "Ray Data needs one" in bad["free CPUs"].mend
    assert "cannot be" in bad["store"].found
