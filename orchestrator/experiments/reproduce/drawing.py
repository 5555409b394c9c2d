"""Panels that several items share, in the look of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from attack.metrics.measure import Measure

from ...base.documents import ConfidenceCurve
from ...report.colours import INK, MUTED, SERIES
from ...report.figures.drawing import MARKERS, Figure, Panel, banded_line, percents

Series = Mapping[str, Sequence[tuple[float, Measure]]]
DASHES = ((0, (4, 2)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))


def lines_figure(
    name: str, title: str, x: str, y: str, series: Series, levels: Mapping[str, float], caption: str
) -> Figure:
    """Returns a figure of one panel: lines with bands of their 95 % intervals, and dashed
    levels."""
    return Figure(name, title, f"{caption} Bands are 95 % intervals over models.", (lines_panel(x, y, series, levels),))


def lines_panel(x: str, y: str, series: Series, levels: Mapping[str, float], first: int = 0) -> Panel:
    """Returns a panel of lines with bands; `first` is the place of the first colour."""

    def draw(ax: Axes) -> None:
        for place, (label, points) in enumerate(series.items(), start=first):
            colour, marker = SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)]
            banded_line(ax, points, colour, marker, label)
        for place, (label, level) in enumerate(levels.items()):
            ax.axhline(
                level, color=INK if place == 0 else MUTED, linewidth=1.0, linestyle=DASHES[place % 3], label=label
            )
        ax.set_xlabel(x)
        ax.set_ylabel(y)
        ax.legend(loc="best")

    parts = [
        f"{label}: " + ", ".join(f"{at:g} → {q.value:.3g}" for at, q in points) for label, points in series.items()
    ]
    return Panel(draw, f"{y} over {x}. " + "; ".join(parts), width=4.6, height=3.4)


def confidence_panel(curve: ConfidenceCurve, title: str) -> Panel:
    """Returns histograms of the attacker's confidence on unlearned (blue) and retrained (grey)
    models.
    """
    edges = np.asarray(curve["edges"], float)
    shares = {side: percents(curve[side]) for side in ("retrained", "unlearned")}

    def draw(ax: Axes) -> None:
        for side, colour in (("retrained", MUTED), ("unlearned", SERIES[0])):
            ax.stairs(shares[side], edges, fill=True, color=colour, alpha=0.3, label=f"{side} models")
            ax.stairs(shares[side], edges, color=colour, linewidth=1.1)
        ax.set_xlim(edges[0], edges[-1])
        ax.set_xlabel("attacker's confidence")
        ax.set_ylabel("share of outputs (%)")
        ax.set_title(title)
        ax.legend(loc="best")

    return Panel(draw, f"Histogram of the attacker's confidence, {title}", width=3.6, height=2.8)
