"""What orchestration itself costs: no-op units on a real Ray, and how nearly sleeping units fill one, two and three nodes.

    python benchmarks/orchestration/bench.py [--units 5000] [--nodes 1,2,3] [--plain 200]

Beside it, on the same Ray, the usual way: one Tune trial a unit, as a function and as a class with reused actors. The floor
is a synced, checksummed commit of one unit in this process, without Ray. Prints as it goes; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from orchestrator.base.environment import prepare_environment
from orchestrator.engine.base import Listener, Told
from orchestrator.engine.ray.engine import RayEngine
from orchestrator.engine.ray.session import obey_authentication
from orchestrator.plan.data import load_data
from orchestrator.plan.specs import PlainSpec
from orchestrator.plan.units import Outcome, Unit
from orchestrator.recipe.recipe import check_recipe
from orchestrator.store import open_store
from orchestrator.work.context import Context
from orchestrator.work.execute import execute

RECIPE = {
    "name": "bench",
    "dataset": {"source": "digits", "limit": {"train": 200, "test": 100}},
    "scenario": {"kind": "samples", "per_class": 5},
    "model": {"name": "small_vgg", "width": 0.0625},
    "shadows": {"originals": 3, "retrained": 3, "split": [1, 1, 1]},
}


def no_op_units(count: int) -> list[Unit]:
    return [
        Unit(PlainSpec("sleep", {"seconds": 0.0, "i": i, "run": time.time()}), f"noop-{i:05d}") for i in range(count)
    ]


def measure_overhead(folder: Path, count: int, plain: int) -> dict[str, Any]:
    """Runs `count` no-op units, each committed to the store, and again with all of them stored."""
    recipe = check_recipe(RECIPE)
    store = open_store(str(folder / "store"))
    data = load_data(recipe, store)
    units = no_op_units(count)
    engine = RayEngine(None, store, data, recipe.resources)
    process = psutil.Process()
    memory: list[float] = []
    context = Context(store, data)
    floor = []
    for unit in no_op_units(200):
        started = time.perf_counter()
        execute(unit, context)
        floor.append(time.perf_counter() - started)
    done: list[Outcome] = []

    def listen(outcome: Outcome) -> None:
        done.append(outcome)
        if len(done) % max(1, count // 20) == 0:
            memory.append(process.memory_info().rss / 2**20)

    try:
        engine.run(no_op_units(8), Listener())  # actors have imported what they need once
        started = time.perf_counter()
        engine.run(units, Told(listen))
        seconds = time.perf_counter() - started
        usual = {kind: measure_usual(kind, plain) for kind in ("function", "class")} if plain else {}
    finally:
        engine.close()
    assert len({outcome.key for outcome in done}) == count
    started = time.perf_counter()
    assert all(store.has(unit.key) for unit in units)
    lookup = time.perf_counter() - started
    result = {
        "units": count,
        "ms_per_unit": 1000 * seconds / count,
        "floor_ms": 1000 * statistics.median(floor),
        "usual_ms": usual,
        "ratio_to_usual": {kind: found / (1000 * seconds / count) for kind, found in usual.items()},
        "lookup_seconds": lookup,
        "driver_mib_first": memory[0],
        "driver_mib_last": memory[-1],
    }
    for kind, found in usual.items():
        print(f"one Tune trial a unit ({kind}, actors reused): {found:.0f} ms each", flush=True)
    print(
        f"{count} no-op units: {seconds:.1f} s, {result['ms_per_unit']:.1f} ms each (floor {result['floor_ms']:.1f} ms on one process); driver memory {memory[0]:.0f} → {memory[-1]:.0f} MiB; "
        f"looking all of them up again {lookup:.2f} s",
        flush=True,
    )
    return result


def measure_usual(kind: str, count: int) -> float:
    """Milliseconds for each of `count` Tune trials that do nothing, actors reused; the first trials are warm-up."""
    import contextlib
    import io

    from ray import tune

    class Nothing(tune.Trainable):
        def step(self) -> dict[str, Any]:
            return {"done": True}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            return None

    def nothing(config: dict[str, Any]) -> None:
        tune.report({"unit": config["unit"]})

    trainable: Any = Nothing if kind == "class" else nothing
    seconds = []
    for trials in (4, 4 + count):
        with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
            tuner = tune.Tuner(
                tune.with_resources(trainable, {"cpu": 1}),
                param_space={"unit": tune.grid_search(list(range(trials)))},
                tune_config=tune.TuneConfig(reuse_actors=True),
                run_config=tune.RunConfig(storage_path=scratch, verbose=0),
            )
            started = time.perf_counter()
            tuner.fit()
            seconds.append(time.perf_counter() - started)
    return 1000 * (seconds[1] - seconds[0]) / count


def measure_scaling(folder: Path, nodes: list[int], seconds: float, per_slot: int) -> list[dict[str, float]]:
    """Sleeping units on a real cluster of 1, 2, 3 raylets; ideal is total sleep over slots."""
    prepare_environment()
    obey_authentication()  # Ray was imported before its token was there
    from ray.cluster_utils import Cluster

    found = []
    for count in nodes:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "node_ip_address": "127.0.0.2"})
        engine = None
        try:
            for index in range(count - 1):
                cluster.add_node(num_cpus=2, node_ip_address=f"127.0.0.{3 + index}")
            cluster.wait_for_nodes()
            recipe = check_recipe({**RECIPE, "resources": {"cpus_per_unit": 1}})
            store = open_store(str(folder / f"store-{count}"))
            engine = RayEngine(cluster.address, store, load_data(recipe, store), recipe.resources)
            slots = engine.slots
            engine.run(no_op_units(2 * slots), Listener())
            units = [
                Unit(PlainSpec("sleep", {"seconds": seconds, "i": i, "nodes": count}), f"sleep-{i:04d}", cost=seconds)
                for i in range(per_slot * slots)
            ]
            started = time.perf_counter()
            engine.run(units, Listener())
            took = time.perf_counter() - started
        finally:
            if engine is not None:
                engine.close()
            cluster.shutdown()
        ideal = seconds * len(units) / slots
        found.append(
            {
                "nodes": count,
                "slots": slots,
                "units": len(units),
                "seconds": took,
                "ideal_seconds": ideal,
                "share_of_ideal": ideal / took,
            }
        )
        print(
            f"{count} nodes, {slots} slots: {len(units)} × {seconds:g} s in {took:.1f} s, ideal {ideal:.1f} s: {100 * ideal / took:.0f} %",
            flush=True,
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=5000)
    parser.add_argument("--nodes", default="1,2,3")
    parser.add_argument("--plain", type=int, default=200, help="trials for the usual way; 0 leaves it out")
    parser.add_argument("--sleep", type=float, default=2.0, help="seconds of one sleeping unit")
    parser.add_argument("--per-slot", type=int, default=20, help="sleeping units for each slot")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="orc-bench-"))
    # One token for every Ray of this process: Ray reads it once.
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    try:
        overhead = measure_overhead(folder, args.units, args.plain) if args.units else None
        nodes = [int(n) for n in args.nodes.split(",") if n]
        scaling = measure_scaling(folder, nodes, args.sleep, args.per_slot)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"benchmark": "orchestration", "overhead": overhead, "scaling": scaling}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
