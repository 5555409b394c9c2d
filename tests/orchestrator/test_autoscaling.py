"""An empty cluster that grows: Ray's own autoscaler, whose nodes are processes of this machine."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.base.environment import prepare_environment
from orchestrator.base.errors import EnvironmentFault
from orchestrator.engine.ray.session import AUTOSCALING, _process_token
from orchestrator.plan.units import Outcome
from orchestrator.recipe.recipe import check_recipe
from orchestrator.store import LocalStore

from .test_nodes import run_units, sleeping
from .test_tracking import free_port

pytestmark = [pytest.mark.ray, pytest.mark.long]

# What `ray up` would write to the head, for Ray's provider of processes.
CONFIG: dict[str, Any] = {
    "cluster_name": "growing",
    "max_workers": 2,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 10,
    "provider": {"type": "fake_multinode", "disable_node_updaters": True, "disable_launch_config_check": True},
    "auth": {},
    "docker": {},
    "file_mounts": {},
    "file_mounts_sync_continuously": False,
    "cluster_synced_files": [],
    "rsync_exclude": [],
    "rsync_filter": [],
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0, AUTOSCALING: 1}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    **{
        f"{name}_commands": []
        for name in (
            "initialization",
            "setup",
            "head_setup",
            "worker_setup",
            "head_start_ray",
            "worker_start_ray",
        )
    },
}


@pytest.fixture(params=[True, False], ids=["says so", "does not say so"])
def head(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, bool]]:
    """The address of a head without CPUs beside an autoscaler, and whether it says that nodes may come."""
    prepare_environment()
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(_process_token())
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_FAKE_CLUSTER", "1")
    monkeypatch.setenv("AUTOSCALER_UPDATE_INTERVAL_S", "1")
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    port = free_port()
    provider = {**CONFIG["provider"], "gcs_address": f"127.0.0.2:{port}"}
    (tmp_path / "autoscaler.yaml").write_text(json.dumps({**CONFIG, "provider": provider}))
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--port", str(port)]
    command += ["--node-ip-address", "127.0.0.2", "--num-cpus", "0", "--include-dashboard", "false"]
    command += [
        "--autoscaling-config",
        str(tmp_path / "autoscaler.yaml"),
        "--min-worker-port",
        "0",
        "--max-worker-port",
        "0",
    ]
    command += ["--dashboard-agent-listen-port", str(free_port()), "--ray-client-server-port", str(free_port())]
    if request.param:
        command += ["--resources", json.dumps({AUTOSCALING: 1})]
    log = tmp_path / "head.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while b"Ray runtime started" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"127.0.0.2:{port}", request.param
    finally:
        for child in [*psutil.Process(process.pid).children(recursive=True), process]:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                child.kill()
        process.wait()


def test_a_run_waits_for_nodes_where_they_may_come(
    head: tuple[str, bool], tiny: dict[str, Any], tmp_path: Path
) -> None:
    address, may_grow = head
    outcomes: list[Outcome] = []
    units = sleeping(6, 1.0)
    store = LocalStore(tmp_path / "store")
    if not may_grow:
        with pytest.raises(EnvironmentFault, match="the cluster has 0 CPUs"):
            run_units(address, check_recipe(tiny), store, units, outcomes.append)
        return
    run_units(address, check_recipe(tiny), store, units, outcomes.append)
    assert [outcome.error for outcome in outcomes if outcome.failed] == []
    assert {outcome.key for outcome in outcomes} == {unit.key for unit in units}
