"""Draws what `bench.py --output FILE` kept: seconds and peak memory of each stage by the size of the table.

python benchmarks/attack/draw.py RESULTS.json FIGURE.svg
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

from orchestrator.report.colours import SERIES
from orchestrator.report.figures.drawing import LINES, MARKERS, STYLE

STAGES = {
    "plain": "plain: NumPy, XGBClassifier",
    "in_process": "in one process",
    "distributed": "distributed, streamed",
    "distributed_scores": "scores, distributed",
    "confidences": "check and φ, one pass",
    "per_sample": "all attacks for each sample",
}
MEMORY = (("plain", "driver"), ("distributed", "driver"), ("distributed", "trainer"), ("distributed", "data_task"), ("per_sample", "driver"))  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("figure", type=Path)
    args = parser.parse_args()
    found = [r for r in json.loads(args.results.read_text()) if r["classes"] == 10 and "failed" not in r]
    with plt.rc_context({**STYLE, "axes.grid": True, "grid.linewidth": 0.4}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.9), layout="constrained")
        for index, (stage, label) in enumerate(STAGES.items()):
            runs = _by_size(found, stage)
            spread = [
                [r["seconds"] - r["seconds_least"] for r in runs],
                [r["seconds_most"] - r["seconds"] for r in runs],
            ]
            left.errorbar(
                [r["rows"] for r in runs], [r["seconds"] for r in runs], yerr=spread, label=label, color=SERIES[index],
                marker=MARKERS[index], markersize=4, linestyle=LINES[index % len(LINES)], linewidth=1.3, capsize=2,
            )  # fmt: skip
        for index, (stage, kind) in enumerate(MEMORY):
            runs = [r for r in _by_size(found, stage) if kind in r["memory_mib"]]
            right.plot(
                [r["rows"] for r in runs], [r["memory_mib"][kind] for r in runs], color=SERIES[index],
                marker=MARKERS[index], markersize=4, linestyle=LINES[index % len(LINES)], linewidth=1.3,
                label=f"{stage.replace('_', ' ')}: {kind.replace('_', ' ')}",
            )  # fmt: skip
        for axes, title, unit, limits in (
            (left, "Time", "seconds", (0.2, 3000)),
            (right, "Peak private memory of a process", "MiB", (50, 40_000)),
        ):
            axes.set(xscale="log", yscale="log", ylim=limits, xlabel="rows, 10 classes", ylabel=unit, title=title)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
                axis.set_minor_formatter(NullFormatter())
            axes.legend(loc="upper left")
        figure.savefig(args.figure, metadata={"Date": None} if args.figure.suffix == ".svg" else None)
    return 0


def _by_size(results: list[dict[str, Any]], stage: str) -> list[dict[str, Any]]:
    """Returns a stage's results by size; of several at one size the last measured."""
    latest = {r["rows"]: r for r in results if r["stage"] == stage}
    return [latest[rows] for rows in sorted(latest)]


if __name__ == "__main__":
    sys.exit(main())
