"""Names of points beside a plot, one below the other, each with a line to its point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from scipy.optimize import isotonic_regression

from ..colours import INK, MUTED

FONT_SIZE = 6.6
LINE_HEIGHT = 9.0  # points


@dataclass(frozen=True)
class Name:
    """What is written, and the point that it names."""

    text: str
    x: float
    y: float
    colour: str = INK


def spread(wanted: Sequence[float], gap: float) -> np.ndarray:
    """Returns ascending places in [0, 1], at least `gap` apart, nearest in squares to `wanted`.

    `wanted` is ascending. Where so many do not fit, the gap shrinks.
    """
    steps = min(gap, 1 / max(1, len(wanted) - 1)) * np.arange(len(wanted))
    free = np.asarray(isotonic_regression(np.asarray(wanted, float) - steps).x)
    return np.clip(free, 0.0, 1.0 - steps[-1]) + steps


def name_points(ax: Axes, names: Sequence[Name], height: float) -> None:
    """Writes `names` right of the axes, which are about `height` inches high.

    The limits of the axes must be set before.
    """
    low, high = ax.get_ylim()
    ordered = sorted(names, key=lambda name: (name.y, -name.x))
    places = spread([(name.y - low) / (high - low) for name in ordered], LINE_HEIGHT / (72 * height))
    for name, place in zip(ordered, places, strict=True):
        ax.annotate(
            name.text,
            (name.x, name.y),
            xytext=(1.04, place),
            textcoords="axes fraction",
            va="center",
            fontsize=FONT_SIZE,
            color=name.colour,
            arrowprops={
                "arrowstyle": "-",
                "color": MUTED,
                "linewidth": 0.4,
                "alpha": 0.5,
                "shrinkA": 0,
                "shrinkB": 2,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )
