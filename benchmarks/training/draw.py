"""Draws what `bench.py` measured: images a second beside the plain way, and the share of the matrix-product peak.

python benchmarks/training/draw.py docs/results/training/cpu-32.json docs/results/training/cpu-64.json --output docs/results/training/cpu.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TITLES = {"small_vgg": "SmallVGG", "all_cnn": "All-CNN", "resnet18": "ResNet-18"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = [row for path in args.files for row in json.loads(path.read_text())["rows"]]
    names = [f"{TITLES[row['model']]}, {row['size']}², width {row['width']:g}" for row in rows]
    places = range(len(rows))[::-1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 0.32 * len(rows) + 1.4), sharey=True)
    panels = (
        (left, "best_to_plain", 1.0, "images a second ÷ the plain way"),
        (right, "share_of_matmul_peak", 100.0, "% of the fastest matrix product"),
    )
    for axis, name, scale, title in panels:
        found = [{k: scale * v for k, v in row[name].items()} for row in rows]
        middle = [f["median"] for f in found]
        spread = [[f["median"] - f["least"] for f in found], [f["largest"] - f["median"] for f in found]]
        colours = ["C0" if row["width"] < 1 else "C1" for row in rows]
        axis.barh(places, middle, xerr=spread, color=colours, ecolor="0.3", height=0.7)
        axis.set_xlabel(title)
        axis.spines[["top", "right"]].set_visible(False)
    left.axvline(1.0, color="0.4", linewidth=1)
    right.axvline(70.0, color="0.4", linewidth=1, linestyle=":")
    right.set_xlim(0, 100)
    left.set_yticks(list(places), names)
    figure.tight_layout()
    figure.savefig(args.output, metadata={"Date": None})


if __name__ == "__main__":
    main()
