"""The figure of a stress test: test accuracy while the forget set grows, until the model fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from ...base.values import Record
from .. import words
from ..colours import INK, MUTED, SERIES
from ..rows import Report, ResultRow, of_rows
from .drawing import LINES, MARKERS, Figure, Panel
from .histories import mean_while_all

LINES_AT_MOST = 8


def incremental_figure(report: Report) -> Figure | None:
    """Test accuracy over the samples of each class forgotten so far, and where it was measured the
    drift of the moments."""
    chains: dict[int, list[Sequence[Record]]] = {}
    for run, row in of_rows(report, report.curves.get("incremental")):
        if len(steps := run.get("steps") or []) > 1:
            chains.setdefault(row.index, []).append(steps)
    candidates = [row for row in report.rows if row.index in chains]
    if not candidates:
        return None
    shown = report.select(candidates, LINES_AT_MOST)

    def accuracy(ax: Axes) -> None:
        for place, row in enumerate(shown):
            colour, runs = SERIES[place % len(SERIES)], chains[row.index]
            for steps in runs if len(runs) > 1 else []:
                xs, ys = _series(steps, "test_accuracy")
                ax.plot(xs, ys, color=colour, linewidth=0.6, alpha=0.3)
            xs, ys = _mean(runs, "test_accuracy")
            line = LINES[place // len(SERIES) % len(LINES)]
            marker = MARKERS[place % len(MARKERS)]
            label = words.shorten(row.label, 34)
            ax.plot(xs, ys, color=colour, linestyle=line, marker=marker, markersize=3.5, label=label)
            if row.value("failing_point") is not None:
                ax.axvline(row.number("failing_point"), color=colour, linewidth=0.9, linestyle=(0, (2, 2)))
        retrain = report.method("retrain")
        if retrain is not None and retrain.value("error_test") is not None:
            ax.axhline(100.0 - retrain.number("error_test"), color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
        ax.set_xlabel("samples forgotten of each class")
        ax.set_ylabel("test accuracy (%)")
        ax.legend(loc="lower left")

    panels = [Panel(accuracy, _alt(shown, chains), width=4.6, height=3.4)]
    drifting = [
        row for row in shown if any(step.get("drift") is not None for steps in chains[row.index] for step in steps)
    ]
    if drifting:

        def drift(ax: Axes) -> None:
            for place, row in enumerate(drifting):
                for steps in chains[row.index]:
                    known = [(s["per_class"], s["drift"]) for s in steps if s.get("drift") is not None]
                    ax.plot(*zip(*known, strict=True), color=SERIES[place % len(SERIES)], linewidth=1.0)
                ax.plot([], [], color=SERIES[place % len(SERIES)], label=words.shorten(row.label, 34))
            ax.axhline(0.0, color=MUTED, linewidth=0.8)
            ax.set_xlabel("samples forgotten of each class")
            ax.set_ylabel("relative distance of running moments")
            ax.legend(loc="best")

        panels.append(Panel(drift, "Drift of the running moments from recomputed ones", width=4.3, height=3.4))
    return Figure(
        "incremental",
        "Forgetting more and more",
        "Test accuracy after each step of incremental unlearning: thin lines are single models, thick lines their mean while all of them go on. Dotted "
        "upright lines mark where the models fail by the recipe's criterion, on average; the dashed level line is the accuracy of retraining "
        "without all the samples of all steps."
        + (
            " The second panel shows how far running second moments are from moments computed anew." if drifting else ""
        ),
        tuple(panels),
    )


def _series(steps: Sequence[Record], name: str) -> tuple[list[float], list[float]]:
    known = [(float(step["per_class"]), 100.0 * float(step[name])) for step in steps if step.get(name) is not None]
    return [x for x, _ in known], [y for _, y in known]


def _mean(runs: Sequence[Sequence[Record]], name: str) -> tuple[list[float], list[float]]:
    """Returns the mean over models at the points that all of them reached."""
    return mean_while_all([dict(zip(*_series(steps, name), strict=True)) for steps in runs])


def _alt(shown: Sequence[ResultRow], chains: Mapping[int, Sequence[Sequence[Record]]]) -> str:
    parts = []
    for row in shown:
        xs, ys = _mean(chains[row.index], "test_accuracy")
        parts.append(f"{row.label}: {ys[0]:.1f} % before, {ys[-1]:.1f} % after {xs[-1]:.0f} samples of each class")
    return "Test accuracy while forgetting grows: " + "; ".join(parts)
