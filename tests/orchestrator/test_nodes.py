"""Several nodes: real raylets on loopback that join, leave and die while units run; a store on S3."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.base.environment import prepare_environment
from orchestrator.engine.base import Told
from orchestrator.engine.ray.engine import RayEngine
from orchestrator.engine.ray.session import _process_token, obey_authentication
from orchestrator.experiments.run import RunOptions, run
from orchestrator.plan.data import load_data
from orchestrator.plan.specs import PlainSpec
from orchestrator.plan.units import Outcome, Unit
from orchestrator.recipe.recipe import check_recipe
from orchestrator.recipe.sections import Recipe
from orchestrator.store import LocalStore, Store, open_store

from .test_experiment import untimed

pytestmark = [pytest.mark.ray, pytest.mark.long]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A head with one CPU; `add_node` gives it more nodes."""
    prepare_environment()
    # The repository on the workers' path: they import the test's model factory.
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    # The token of this process's local clusters: Ray reads a process's token once, and tests before and after this use it.
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(_process_token())
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    obey_authentication()
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "node_ip_address": "127.0.0.2"})
    yield found
    found.shutdown()


def sleeping(count: int, seconds: float) -> list[Unit]:
    return [
        Unit(PlainSpec("sleep", {"seconds": seconds, "i": i}), f"sleep-{i:03d}", cost=seconds) for i in range(count)
    ]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def run_units(
    address: str, recipe: Recipe, store: Store, units: list[Unit], listen: Callable[[Outcome], None], **options: Any
) -> None:
    engine = RayEngine(address, store, load_data(recipe, store), recipe.resources, **options)
    try:
        engine.run(units, Told(listen))
    finally:
        engine.close()


def test_nodes_join_leave_and_die_and_every_unit_is_done_once(
    cluster: Any, tiny: dict[str, Any], tmp_path: Path
) -> None:
    doomed = cluster.add_node(num_cpus=1, node_ip_address="127.0.0.3")
    cluster.wait_for_nodes()
    store = LocalStore(tmp_path / "store")
    recipe = check_recipe({**tiny, "resources": {"max_retries": 5}})
    outcomes: list[Outcome] = []
    places: Counter[str] = Counter()

    def listen(outcome: Outcome) -> None:
        outcomes.append(outcome)
        places[outcome.where.split()[-1]] += 1
        if len(outcomes) == 3:
            cluster.add_node(num_cpus=1, node_ip_address="127.0.0.4")
        if len(outcomes) == 12:
            cluster.remove_node(doomed, allow_graceful=False)

    units = sleeping(60, 1.0)
    run_units(cluster.address, recipe, store, units, listen)
    assert [outcome.error for outcome in outcomes if outcome.failed] == []
    assert Counter(outcome.key for outcome in outcomes) == Counter(unit.key for unit in units)
    assert places["127.0.0.3"] > 0, "the node that died had worked"
    assert places["127.0.0.4"] > 0, "the node that joined took part"
    assert all(store.has(unit.key) for unit in units)


def test_the_queue_is_killed_and_a_new_one_has_what_was_left(
    cluster: Any, tiny: dict[str, Any], tmp_path: Path
) -> None:
    """SIGKILL of the process that hands units out: no worker is blamed, and no unit that was heard of runs again."""
    store = LocalStore(tmp_path / "store")
    outcomes: list[Outcome] = []
    killed: list[int] = []

    def listen(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if len(outcomes) in (4, 8):
            queues = [p for p in psutil.process_iter() if "ray::QueueServer" in " ".join(_command(p))]
            for process in queues:
                process.kill()
                killed.append(process.pid)

    units = sleeping(12, 0.6)
    started = time.monotonic()
    run_units(cluster.address, check_recipe(tiny), store, units, listen)
    assert len(killed) == 2
    assert [outcome.error for outcome in outcomes if outcome.failed] == []
    assert Counter(outcome.key for outcome in outcomes) == Counter(unit.key for unit in units)
    assert time.monotonic() - started < 200, "workers are not started over and over for a queue that is no more"


def test_a_whole_experiment_on_two_nodes_with_its_store_on_s3(
    s3: Any, cluster: Any, tiny: dict[str, Any], tmp_path: Path
) -> None:
    cluster.add_node(num_cpus=1, node_ip_address="127.0.0.3")
    cluster.wait_for_nodes()
    bucket = f"bucket-{os.urandom(6).hex()}"
    s3.create_bucket(Bucket=bucket)
    uri = f"s3://{bucket}/store"
    tiny["resources"] = {"distributed_rows": 1}
    recipe = check_recipe(tiny)
    options = RunOptions(tmp_path / "out", store=uri, address=cluster.address, quiet=True)
    first = run(recipe, options)
    assert first.failed == 0
    assert first.document["environment"]["attack"]["path"] == "distributed"
    assert first.document["environment"]["work"]["units_reused"] == 0
    again = run(recipe, dataclasses.replace(options, output=tmp_path / "again"))
    assert again.document["environment"]["work"]["units_executed"] == 0
    assert json.dumps(untimed(again.document["rows"])) == json.dumps(untimed(first.document["rows"]))
    store = open_store(uri)
    assert store.litter(0.0) == []
    assert all(store.verify(key) for key in list(store.keys()))
