"""Figures of what happened over epochs: training, and accuracy while unlearning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ...base.documents import TrainingCurve, UnlearningCurve
from ...base.values import Record
from .. import words
from ..colours import INK, MUTED, PAPER, SERIES
from ..rows import Report, ResultRow, of_rows
from .drawing import LINES, Figure, Panel, plain_log, shown_of

PANELS = 6
FAINT_LINES = 12
SETS = {
    "forget_accuracy": ("forget set", SERIES[1], "-"),
    "validation_accuracy": ("validation", SERIES[0], (0, (5, 1.6))),
    "retain_accuracy": ("retain set", SERIES[2], (0, (6, 1.5, 1.2, 1.5))),
    "test_accuracy": ("test", SERIES[3], (0, (1.2, 1.2))),
}
ROLES = {"original": ("originals (all data)", SERIES[0]), "retrained": ("retrained (retain set)", SERIES[1])}


def series(history: Sequence[Record], name: str) -> dict[float, float]:
    """Returns epoch → value of what was recorded under `name`."""
    return {
        float(row["epoch"]): float(row[name])
        for row in history or []
        if row.get("epoch") is not None and isinstance(row.get(name), int | float)
    }


def mean_while_all(curves: Sequence[Mapping[float, float]]) -> tuple[list[float], list[float]]:
    """Returns epochs and means over all curves, up to where the first of them ends: beyond, the
    mean would be of a chosen few."""
    curves = [curve for curve in curves if curve]
    common = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    return common, [float(np.mean([curve[epoch] for curve in curves])) for epoch in common]


def unlearning_figure(report: Report) -> Figure | None:
    """Accuracy over the epochs of unlearning, a panel for each row."""
    runs: dict[int, list[UnlearningCurve]] = {}
    for run, row in of_rows(report, report.curves.get("unlearning")):
        if series(run.get("history") or [], "forget_accuracy"):
            runs.setdefault(row.index, []).append(run)
    candidates = [row for row in report.rows if row.index in runs]
    if not candidates:
        return None
    shown = report.select(candidates, PANELS)
    stops = any(run.get("stopped_at") is not None for row in shown for run in runs[row.index])
    caption = (
        "Accuracy on the forget set and on data never trained on, epoch after epoch. Thin lines are single models; thick lines are their mean while "
        "all of them are still at it. Unlearning is done where the forget set is classified no better than unseen data"
    )
    caption += "; dots mark the epoch at which each model stopped, the upright line their median." if stops else "."
    caption += " The dotted level line is Retrain's accuracy on the forget set."
    return Figure(
        "unlearning",
        "Accuracy while unlearning",
        caption + shown_of(shown, candidates),
        tuple(_unlearning_panel(report, row, runs[row.index]) for row in shown),
    )


def _unlearning_panel(report: Report, row: ResultRow, runs: Sequence[UnlearningCurve]) -> Panel:
    stopped = [float(epoch) for run in runs if (epoch := run.get("stopped_at")) is not None]
    retrain = report.method("retrain")

    def panel(ax: Axes) -> None:
        for name, (label, colour, style) in SETS.items():
            curves = [series(run.get("history") or [], name) for run in runs]
            if not any(curves):
                continue
            for curve in curves[:FAINT_LINES] if len(runs) > 1 else []:
                ax.plot(list(curve), [100 * v for v in curve.values()], color=colour, linewidth=0.6, alpha=0.3)
            epochs, means = mean_while_all(curves)
            marker = "o" if len(epochs) == 1 else None
            ax.plot(
                epochs,
                [100 * v for v in means],
                color=colour,
                linestyle=style,
                marker=marker,
                markersize=3.5,
                label=label,
            )
        for run in runs:
            epoch = run.get("stopped_at")
            forgotten = series(run.get("history") or [], "forget_accuracy")
            if epoch is not None and epoch in forgotten:
                ax.plot(
                    [epoch],
                    [100 * forgotten[epoch]],
                    "o",
                    color=SERIES[1],
                    markeredgecolor=PAPER,
                    markersize=5,
                    zorder=4,
                )
        if stopped:
            ax.axvline(
                float(np.median(stopped)), color=INK, linewidth=1.0, linestyle=(0, (4, 2)), label="early stop (median)"
            )
        if retrain is not None and retrain.value("error_forget") is not None:
            ax.axhline(
                100 - retrain.number("error_forget"),
                color=MUTED,
                linewidth=1.0,
                linestyle=(0, (1.2, 1.2)),
                label="Retrain, forget set",
            )
        _whole_epochs(ax)
        ax.set_ylabel("accuracy (%)")
        ax.set_title(words.shorten(row.label, 48))
        ax.legend(loc="best")

    said = (
        f"; early stop at epoch {np.median(stopped):g} (median of {words.count(len(stopped), 'model')})"
        if stopped
        else "; no early stop"
    )
    return Panel(
        panel, f"Accuracy over unlearning epochs, {row.label}, {words.count(len(runs), 'model')}{said}", height=2.9
    )


def training_figure(report: Report) -> Figure | None:
    """Loss, and accuracy where it was recorded, while the shadow models were trained."""
    by_role: dict[str, list[TrainingCurve]] = {}
    for run in report.curves.get("training") or []:
        if run.get("history"):
            by_role.setdefault(str(run.get("role")), []).append(run)
    panels = []
    for name, label, scale in (("loss", "training loss", 1.0), ("accuracy", "training accuracy (%)", 100.0)):
        curves = {
            role: found
            for role, runs in by_role.items()
            if (found := [c for run in runs if (c := series(run["history"], name))])
        }
        if curves:
            panels.append(_training_panel(curves, label, scale))
    if not panels:
        return None
    total = sum(len(runs) for runs in by_role.values())
    return Figure(
        "training",
        "Training of the shadow models",
        f"Mean over models and, as a band, from the lowest to the highest of them ({words.count(total, 'model')}). The two kinds differ only in whether the forget "
        "set was among their data; a band that stays wide to the end, or a loss that still falls there, asks for longer training.",
        tuple(panels),
    )


def _training_panel(curves: Mapping[str, Sequence[Mapping[float, float]]], label: str, scale: float) -> Panel:
    def panel(ax: Axes) -> None:
        for i, (role, found) in enumerate(curves.items()):
            name, colour = ROLES.get(role, (words.clean(role), SERIES[(i + 2) % len(SERIES)]))
            epochs = sorted({epoch for curve in found for epoch in curve})
            values = [[scale * curve[epoch] for curve in found if epoch in curve] for epoch in epochs]
            ax.fill_between(
                epochs, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15, linewidth=0
            )
            marker = "o" if len(epochs) == 1 else None
            text = f"{name}, {len(found)}"
            ax.plot(
                epochs,
                [np.mean(v) for v in values],
                color=colour,
                linestyle=LINES[i % 2],
                marker=marker,
                markersize=3.5,
                label=text,
            )
        _whole_epochs(ax)
        if scale == 1.0 and all(v > 0 for found in curves.values() for curve in found for v in curve.values()):
            plain_log(ax, "y")
        ax.set_ylabel(label)
        ax.legend(loc="best")

    ends = "; ".join(
        f"{role}: {np.mean([scale * c[max(c)] for c in found]):.3g} at the end, mean of {words.count(len(found), 'model')}"
        for role, found in curves.items()
    )
    return Panel(panel, f"{label} over epochs; {ends}", height=2.9)


def _whole_epochs(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    ax.set_xlabel("epoch")
