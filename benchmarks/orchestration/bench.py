"""What orchestration itself costs: no-op units on a real Ray, and how nearly sleeping units fill one, two and three nodes.

    python benchmarks/orchestration/bench.py [--units 5000] [--nodes 1,2,3]

Prints what it measures as it goes; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from orchestrator.data import load_data
from orchestrator.engine.ray_engine import RayEngine
from orchestrator.engine.session import prepare_environment
from orchestrator.recipe import check_recipe
from orchestrator.store import open_store
from orchestrator.units import Outcome, Unit

RECIPE = {
    "name": "bench",
    "dataset": {"source": "digits", "limit": {"train": 200, "test": 100}},
    "scenario": {"kind": "samples", "per_class": 5},
    "model": {"name": "small_vgg", "width": 0.0625},
    "shadows": {"originals": 3, "retrained": 3, "split": [1, 1, 1]},
}


def no_op_units(count: int) -> list[Unit]:
    return [Unit("sleep", {"seconds": 0.0, "i": i, "run": time.time()}, f"noop-{i:05d}") for i in range(count)]


def measure_overhead(folder: Path, count: int) -> dict[str, float]:
    """Runs `count` no-op units, each committed to the store, and again with all of them stored."""
    recipe = check_recipe(RECIPE)
    store = open_store(str(folder / "store"))
    data = load_data(recipe, store)
    units = no_op_units(count)
    engine = RayEngine(None, store, data, recipe.resources)
    process = psutil.Process()
    memory: list[float] = []
    done: list[Outcome] = []

    def listen(outcome: Outcome) -> None:
        done.append(outcome)
        if len(done) % max(1, count // 20) == 0:
            memory.append(process.memory_info().rss / 2**20)

    try:
        engine.run("train", no_op_units(8), lambda outcome: None)  # actors have imported what they need once
        started = time.perf_counter()
        engine.run("train", units, listen)
        seconds = time.perf_counter() - started
    finally:
        engine.close()
    assert len({outcome.key for outcome in done}) == count
    started = time.perf_counter()
    assert all(store.has(unit.key) for unit in units)
    lookup = time.perf_counter() - started
    result = {
        "units": count,
        "ms_per_unit": 1000 * seconds / count,
        "lookup_seconds": lookup,
        "driver_mib_first": memory[0],
        "driver_mib_last": memory[-1],
    }
    print(
        f"{count} no-op units: {seconds:.1f} s, {result['ms_per_unit']:.1f} ms each; driver memory {memory[0]:.0f} → {memory[-1]:.0f} MiB; "
        f"looking all of them up again {lookup:.2f} s",
        flush=True,
    )
    return result


def measure_scaling(folder: Path, nodes: list[int], seconds: float, per_slot: int) -> list[dict[str, float]]:
    """Sleeping units on a real cluster of 1, 2, 3 raylets; ideal is total sleep over slots."""
    prepare_environment()
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
            engine.run("train", no_op_units(2 * slots), lambda outcome: None)
            units = [
                Unit("sleep", {"seconds": seconds, "i": i, "nodes": count}, f"sleep-{i:04d}", cost=seconds)
                for i in range(per_slot * slots)
            ]
            started = time.perf_counter()
            engine.run("train", units, lambda outcome: None)
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


def simulate_makespan(costs: np.ndarray, slots: int) -> float:
    """Largest-first list scheduling: each unit goes to the slot that is free first. Returns the time of the last end."""
    import heapq

    free = [0.0] * slots
    for cost in np.sort(costs)[::-1]:
        heapq.heappush(free, heapq.heappop(free) + float(cost))
    return max(free)


def measure_makespan() -> list[dict[str, float]]:
    """Makespans by simulation against the bound max(total ÷ slots, longest unit), unit times spread like measured ones (±15 %)."""
    generator = np.random.default_rng(0)
    found = []
    for units in (100, 1000, 10_000, 100_000):
        costs = generator.lognormal(0.0, 0.15, units)
        for slots in (1, 10, 100, 1000):
            bound = max(costs.sum() / slots, costs.max())
            makespan = simulate_makespan(costs, slots)
            found.append({"units": units, "slots": slots, "over_bound": makespan / bound})
            waves = math.ceil(units / slots)
            print(
                f"{units:>7} units on {slots:>5} GPUs: {makespan / bound:.3f} × the bound ({waves} waves)", flush=True
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=5000)
    parser.add_argument("--nodes", default="1,2,3")
    parser.add_argument("--sleep", type=float, default=2.0, help="seconds of one sleeping unit")
    parser.add_argument("--per-slot", type=int, default=20, help="sleeping units for each slot")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="orc-bench-"))
    try:
        overhead = measure_overhead(folder, args.units) if args.units else None
        nodes = [int(n) for n in args.nodes.split(",") if n]
        scaling = measure_scaling(folder, nodes, args.sleep, args.per_slot)
        makespan = measure_makespan()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"benchmark": "orchestration", "overhead": overhead, "scaling": scaling, "makespan": makespan}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
