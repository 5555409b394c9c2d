"""The figure of a sweep: errors and AUC over the one number that was varied."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from ...base.values import Json
from .. import words
from ..colours import INK, MUTED, SERIES
from ..rows import Report, ResultRow
from .drawing import MARKERS, Figure, Panel, banded_line, plain_log

METHODS = 4


def sweep_figure(report: Report) -> Figure | None:
    """Errors and AUC over the one number that was swept, for each method where that is so."""
    panels: list[Panel] = []
    swept = []
    for method in dict.fromkeys(row.method for row in report.rows if not row.baseline):
        rows = [row for row in report.rows if row.method == method and row.done]
        if not rows or len(rows[0].varying) != 1:
            continue
        name = rows[0].varying[0]
        points = [(x, row) for row in rows if (x := _number(row.params.get(name))) is not None]
        if len(points) < len(rows) or len({x for x, _ in points}) < 3:
            continue
        points.sort(key=lambda point: point[0])
        drawn = _sweep_panels(report, points, name)
        if not drawn:
            continue
        swept.append(f"{words.parameter_name(name)} of {rows[0].title}")
        if len(swept) <= METHODS:
            panels += drawn
    if not panels:
        return None
    more = f" Drawn for the first {METHODS} of {len(swept)} methods that were swept." if len(swept) > METHODS else ""
    return Figure(
        "sweep",
        f"Sweep of {words.listed(swept[:METHODS])}",
        "Classification errors on the forget set, the retain set and test data, with Retrain's as dashed lines, which good settings meet; "
        "and attack AUC, whose aim is 0.5. Bands are 95 % intervals over models. A setting is good where the errors lie on the dashed lines "
        "and the AUC band covers 0.5." + more,
        tuple(panels),
    )


def _number(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _sweep_panels(report: Report, points: Sequence[tuple[float, ResultRow]], name: str) -> list[Panel]:
    xs, rows = [x for x, _ in points], [row for _, row in points]
    logarithmic = min(xs) > 0 and max(xs) / min(xs) >= 20
    retrain = report.method("retrain")
    label = f"{words.parameter_name(name)} ({rows[0].title})"
    errors = [("error_forget", "forget set", 1), ("error_retain", "retain set", 2), ("error_test", "test data", 0)]

    def curve(ax: Axes, metric: str, text: str, which: int) -> None:
        known = [(x, row.row[metric]) for x, row in points if row.value(metric) is not None]
        if not known:
            return
        colour = SERIES[which]
        banded_line(ax, known, colour, MARKERS[which], text)
        if metric.startswith("error_") and retrain is not None and retrain.value(metric) is not None:
            ax.axhline(retrain.number(metric), color=colour, linewidth=1.0, linestyle=(0, (4, 2)))

    def axis(ax: Axes) -> None:
        if logarithmic:
            plain_log(ax, "x")
        ax.set_xlabel(label)

    def error_panel(ax: Axes) -> None:
        for item in errors:
            curve(ax, *item)
        axis(ax)
        ax.set_ylabel("error (%)")
        ax.set_ylim(bottom=0)
        ax.legend(loc="best")

    def auc_panel(ax: Axes) -> None:
        ax.axhline(words.CHANCE, color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
        for i, auc in enumerate(report.auc_names):
            curve(ax, auc, words.attack_name(report.attack_of(auc)), 3 + i % 3)
        before = report.method("no_unlearn")
        if before is not None and before.value(report.primary) is not None:
            ax.axhline(
                before.number(report.primary),
                color=MUTED,
                linewidth=1.0,
                linestyle=(0, (1.2, 1.2)),
                label="before unlearning",
            )
        axis(ax)
        ax.set_ylabel("attack AUC")
        ax.legend(loc="best")

    shown = "; ".join(
        f"{name}={words.value_text(row.params[name])}: test error {row.text('error_test')} %, AUC {row.text(report.primary)}"
        for row in rows[:12]
    )

    def measured(names: Sequence[str]) -> bool:
        return any(row.value(each) is not None for row in rows for each in names)

    found = []
    if measured([each for each, _, _ in errors]):
        found.append(Panel(error_panel, f"Errors over {label}: {shown}"))
    if measured(report.auc_names):
        found.append(Panel(auc_panel, f"Attack AUC over {label}: {shown}"))
    return found
