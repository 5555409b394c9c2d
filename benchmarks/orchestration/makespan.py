"""Makespans by simulation with recorded unit times: 100 to 100,000 units on 1 to 1,000 GPUs against the bound, total work ÷ GPUs.

    python benchmarks/orchestration/makespan.py runs/cifar10-mini [runs/demo] --output docs/results/orchestration

Unit times are drawn, seeded, from those that a run recorded, kind by kind; workers pull from the scheduler's own queue
(`orchestrator.engine.queue`), which knows a unit's estimated cost but not its time. Writes `makespan.json` and a figure;
the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.experiments.estimate import simulate, total_seconds
from orchestrator.plan.specs import PlainSpec
from orchestrator.plan.units import Unit
from orchestrator.records.folder import OutputFolder

UNITS = (100, 1000, 10_000, 100_000)
GPUS = (1, 10, 100, 1000)
STAGE = "train"


def recorded_seconds(folder: Path) -> np.ndarray:
    """Returns the seconds that the run's shadow models took, each on its worker's own clock."""
    seconds = [
        event["seconds"]
        for event in OutputFolder(folder).events()
        if event.get("event") == "unit" and event["stage"] == STAGE and event["status"] == "done"
    ]
    if len(seconds) < 10:
        raise SystemExit(f"{folder}: {len(seconds)} recorded units of stage {STAGE!r}; ten or more are needed")
    return np.asarray(seconds, dtype=np.float64)


def simulate_all(recorded: np.ndarray, per_unit: float, seed: int) -> list[dict[str, Any]]:
    """Returns for each size makespan, bound and their ratio."""
    found = []
    for count in UNITS:
        generator = np.random.default_rng(seed)
        drawn = generator.choice(recorded, count)
        units = [Unit(PlainSpec("sleep", {"i": i}), f"u{i:06d}") for i in range(count)]
        seconds = {unit.key: float(value) for unit, value in zip(units, drawn, strict=True)}
        for slots in GPUS:
            makespan = simulate(units, seconds, slots, per_unit=per_unit)
            work = float(drawn.sum()) / slots
            bound = total_seconds(drawn.tolist(), slots)
            found.append(
                {
                    "units": count,
                    "gpus": slots,
                    "makespan_seconds": makespan,
                    "work_over_gpus_seconds": work,
                    "bound_seconds": bound,
                    "over_work": makespan / work,
                    "over_bound": makespan / bound,
                }
            )
    return found


def draw(results: dict[str, list[dict[str, Any]]], folder: Path) -> list[Path]:
    """Draws makespan over total work ÷ GPUs against the units that each GPU gets."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(5.2 * len(results), 3.6), squeeze=False, sharey=True)
    for axis, (name, rows) in zip(axes[0], results.items(), strict=True):
        for slots, marker in zip(GPUS, "osD^", strict=True):
            chosen = [row for row in rows if row["gpus"] == slots and row["units"] >= slots]
            axis.plot(
                [r["units"] / slots for r in chosen],
                [r["over_work"] for r in chosen],
                marker=marker,
                label=f"{slots:,} GPUs" if slots > 1 else "1 GPU",
            )
        axis.axhline(1.0, color="0.6", linewidth=1)
        axis.axhline(1.05, color="0.6", linewidth=1, linestyle=":")
        axis.set_xscale("log")
        axis.set_xlabel("units for each GPU")
        axis.set_title(name, fontsize=10)
    axes[0][0].set_ylabel("makespan ÷ (total work ÷ GPUs)")
    axes[0][-1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    paths = [folder / f"makespan.{ending}" for ending in ("svg", "png")]
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return paths


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="output folders whose recorded times are used")
    parser.add_argument(
        "--per-unit", type=float, default=0.0138, help="seconds of overhead of a unit (measured: bench.py)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder for makespan.json and the figure")
    args = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {}
    recorded: dict[str, dict[str, float]] = {}
    for folder in args.folders:
        seconds = recorded_seconds(folder)
        recorded[folder.name] = {
            "units": len(seconds),
            "mean_seconds": float(seconds.mean()),
            "longest_seconds": float(seconds.max()),
            "spread": float(seconds.std() / seconds.mean()),
        }
        results[folder.name] = simulate_all(seconds, args.per_unit, args.seed)
        print(
            f"{folder.name}: {len(seconds)} recorded shadow models, mean {seconds.mean():.2f} s, longest {seconds.max():.2f} s, "
            f"spread {100 * seconds.std() / seconds.mean():.0f} %"
        )
        print(f"{'units':>8}{'GPUs':>7}{'makespan s':>13}{'work/GPUs s':>13}{'ratio':>8}{'over bound':>12}")
        for row in results[folder.name]:
            print(
                f"{row['units']:>8}{row['gpus']:>7}{row['makespan_seconds']:>13.1f}"
                f"{row['work_over_gpus_seconds']:>13.1f}{row['over_work']:>8.3f}{row['over_bound']:>12.3f}"
            )
    document = {
        "benchmark": "makespan",
        "overhead": {"per_unit_seconds": args.per_unit},
        "seed": args.seed,
        "recorded": recorded,
        "results": results,
    }
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "makespan.json").write_text(json.dumps(document, indent=1) + "\n")
        for path in draw(results, args.output):
            print(f"wrote {path}")
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
