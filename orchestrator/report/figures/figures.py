"""The figures of a report, each built from rows and curves; what cannot be drawn from these results
is left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes

from attack.metrics.row import metric_name

from ...base.documents import ConfidenceCurve, RocCurve
from .. import words
from ..colours import INK, MUTED, PAPER, SERIES, SOFT
from ..rows import Report, ResultRow, of_rows
from .drawing import LINES, MARKERS, Figure, Line, Panel, percents, plain_log, shown_of
from .growth import incremental_figure
from .histories import training_figure, unlearning_figure
from .labels import Name, name_points
from .sweeps import sweep_figure

FIGURES = ("auc", "privacy_utility", "roc", "confidence", "unlearning", "incremental", "sweep", "training")
FOREST_ROWS = 30
CURVES = 8
CURVES_PER_METHOD = 4
PANELS = 6
ATTACK_PANELS = 3
ANNOTATED = 16
LEGEND = 10  # methods; more have their names beside the plot


class Looks:
    """Colour by method, line by row within its method: the same in every figure."""

    def __init__(self, report: Report, shown: Sequence[ResultRow]):
        methods = list(dict.fromkeys(row.method for row in report.rows if not row.baseline))
        self._order = {method: i for i, method in enumerate(methods)}
        self._line: dict[int, Line] = {}
        for method in methods:
            for i, row in enumerate([r for r in shown if r.method == method]):
                self._line[row.index] = LINES[i % len(LINES)]

    def colour(self, row: ResultRow) -> str:
        if row.baseline:
            return INK if row.method == "retrain" else MUTED
        return SERIES[self._order[row.method] % len(SERIES)]

    def line(self, row: ResultRow) -> Line:
        return (0, (2.5, 1.5)) if row.method == "retrain" else "-" if row.baseline else self._line.get(row.index, "-")

    def marker(self, row: ResultRow) -> str:
        if row.baseline:
            return "*" if row.method == "retrain" else "x"
        return MARKERS[self._order[row.method] % len(MARKERS)]


def draw(report: Report) -> list[Figure]:
    """Returns the figures that these results support, in the order in which they are read."""
    makers: tuple[Callable[[Report], Figure | None], ...] = (
        auc_figure,
        plane_figure,
        roc_figure,
        confidence_figure,
        unlearning_figure,
        incremental_figure,
        sweep_figure,
        training_figure,
    )
    return [figure for maker in makers if (figure := maker(report)) is not None]


def auc_figure(report: Report) -> Figure | None:
    """AUC with its interval for each row and attack."""
    names = report.auc_names
    candidates = [row for row in report.rows if any(row.value(name) is not None for name in names)]
    if not candidates:
        return None
    shown = report.select(candidates, FOREST_ROWS)
    looks = Looks(report, shown)

    def panel(ax: Axes) -> None:
        ax.axvline(words.CHANCE, color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
        offsets = np.linspace(-0.24, 0.24, len(names)) if len(names) > 1 else [0.0]
        for place, row in enumerate(shown):
            for which, (name, offset) in enumerate(zip(names, offsets, strict=True)):
                value, bounds = row.value(name), row.bounds(name)
                if value is None:
                    continue
                colour = looks.colour(row)
                if bounds:
                    ax.plot(bounds, [place + offset] * 2, color=colour, linewidth=2.0, solid_capstyle="butt")
                filled = colour if which == 0 else PAPER
                ax.plot(
                    [value],
                    [place + offset],
                    MARKERS[which % len(MARKERS)],
                    color=colour,
                    markerfacecolor=filled,
                    markersize=5.5,
                )
        for which, name in enumerate(names if len(names) > 1 else ()):
            filled = MUTED if which == 0 else PAPER
            label = words.attack_name(report.attack_of(name))
            ax.plot([], [], MARKERS[which % len(MARKERS)], color=MUTED, markerfacecolor=filled, label=label)
        ax.set_yticks(range(len(shown)), [words.shorten(row.label, 30) for row in shown])
        ax.set_ylim(len(shown) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        low = min(
            [
                0.45,
                *(min([v, *(row.bounds(n) or [])]) for row in shown for n in names if (v := row.value(n)) is not None),
            ]
        )
        high = max(
            [
                0.55,
                *(max([v, *(row.bounds(n) or [])]) for row in shown for n in names if (v := row.value(n)) is not None),
            ]
        )
        ax.set_xlim(max(-0.01, low - 0.03), min(1.01, high + 0.03))
        ax.set_xlabel("attack AUC, 95 % interval  (0.5: forgotten)")
        if len(names) > 1:
            ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)

    height = (0.95 if len(names) == 1 else 1.2) + 0.3 * len(shown)
    alt = "Attack AUC by method: " + "; ".join(f"{row.label} {row.text(report.primary)}" for row in shown[:12])
    return Figure(
        "auc",
        "Can an attacker tell?",
        "Attack AUC of each row with its 95 % interval over models. An interval that crosses the dashed line at 0.5 cannot be told from "
        "retraining; right of it the forget set is still recognised; left of it forgetting was overdone and can be seen as such (Streisand "
        "effect). Retrain shows how far chance alone reaches." + shown_of(shown, candidates),
        (Panel(panel, alt, width=4.6, height=height),),
    )


def plane_figure(report: Report) -> Figure | None:
    """Privacy against utility: attack AUC over test error."""
    name = report.primary
    points = [row for row in report.rows if row.value(name) is not None and row.value("error_test") is not None]
    if len(points) < 2:
        return None
    looks = Looks(report, points)
    crowded = len(points) > 40
    height = 3.6 if len({row.method for row in points}) <= LEGEND else 5.0

    def panel(ax: Axes) -> None:
        ax.axhline(words.CHANCE, color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
        retrain = report.method("retrain")
        if retrain is not None and retrain.value("error_test") is not None:
            ax.axvline(retrain.number("error_test"), color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
        seen: set[str] = set()
        for row in sorted(points, key=lambda row: row.baseline):
            x, y, xs, ys = row.number("error_test"), row.number(name), row.bounds("error_test"), row.bounds(name)
            colour = looks.colour(row)
            if not crowded:
                bars = ([(xs, [y, y])] if xs else []) + ([([x, x], ys)] if ys else [])
                for across, up in bars:
                    ax.plot(across, up, color=colour, linewidth=0.9, alpha=0.55)
            label = row.title if row.method not in seen else None
            seen.add(row.method)
            size = 11 if row.method == "retrain" else 7 if row.method == "no_unlearn" else 4 if crowded else 6
            ax.plot(
                [x],
                [y],
                looks.marker(row),
                color=colour,
                markersize=size,
                markeredgewidth=1.6 if row.baseline else 0.8,
                label=label,
                zorder=3,
            )
        ax.set_xlabel("test error (%)  ← better")
        ax.set_ylabel("attack AUC")
        ax.margins(0.08)
        if len(seen) > LEGEND:
            ax.autoscale_view()
            ax.set_ylim(ax.get_ylim())
            firsts = {row.method: row for row in reversed(points)}.values()
            name_points(ax, [Name(r.title, r.number("error_test"), r.number(name)) for r in firsts], 0.8 * height)
        else:
            ax.legend(loc="best")
        if len(points) <= ANNOTATED:
            _annotate(ax, [row for row in points if row.varying])

    def _annotate(ax: Axes, rows: Sequence[ResultRow]) -> None:
        """Writes the swept parameters beside the points, each where none stands yet; where there is
        no room, not at all."""
        ax.autoscale_view()
        size = 1.3 * height * 0.82 * 72, height * 0.8 * 72
        taken: list[tuple[float, float, float, float]] = []
        centres = [_place(ax, row, name, *size) for row in points]
        taken += [(x - 4, y - 4, x + 4, y + 4) for x, y in centres]
        for row in rows:
            text = words.parameters_text(row.params, row.varying, limit=18)
            x, y = _place(ax, row, name, *size)
            wide = 4.4 * len(text)
            for dx, dy in ((5, 4), (5, -11), (-5 - wide, 4), (-5 - wide, -11), (5, 13), (5, -20)):
                box = (x + dx, y + dy, x + dx + wide, y + dy + 8)
                if all(box[2] < t[0] or box[0] > t[2] or box[3] < t[1] or box[1] > t[3] for t in taken):
                    point = (row.value("error_test"), row.value(name))
                    ax.annotate(text, point, xytext=(dx, dy), textcoords="offset points", fontsize=7, color=INK)
                    taken.append(box)
                    break

    alt = "Attack AUC over test error: " + "; ".join(
        f"{row.label} {row.value('error_test'):.2f} %, AUC {row.value(name):.3f}" for row in points[:12]
    )
    return Figure(
        "privacy_utility",
        "What forgetting costs",
        "Each point is a row: attack AUC over test error, thin bars are 95 % intervals. The dashed lines cross where perfect unlearning lies: "
        "AUC 0.5 at the test error of retraining. Above the level line the forget set is recognised; right of the upright line test accuracy was paid."
        + (" Intervals are left out for legibility." if crowded else ""),
        (Panel(panel, alt, width=1.3 * height, height=height),),
    )


def _place(ax: Axes, row: ResultRow, name: str, width: float, height: float) -> tuple[float, float]:
    """Returns about where a point will stand, in points from the lower left corner of axes of that
    size."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    return (row.number("error_test") - left) / (right - left) * width, (row.number(name) - low) / (high - low) * height


def roc_figure(report: Report) -> Figure | None:
    """ROC curves, linear and log-log, for each attack."""
    by_attack: dict[str, list[tuple[ResultRow, RocCurve]]] = {}
    for curve, row in of_rows(report, report.curves.get("roc")):
        if len(curve.get("fpr") or []) > 1 and len(curve["fpr"]) == len(curve.get("tpr") or []):
            by_attack.setdefault(str(curve.get("attack")), []).append((row, curve))
    if not by_attack:
        return None
    panels = []
    attacks = sorted(by_attack, key=lambda attack: attack != report.attack_of(report.primary))
    remark = ""
    for attack in attacks[:ATTACK_PANELS]:
        pairs = by_attack[attack]
        candidates = [row for row, _ in pairs]
        shown = report.select(candidates, CURVES, CURVES_PER_METHOD)
        remark = remark or shown_of(shown, candidates)
        kept = [(row, curve) for row, curve in pairs if row in shown]
        title = f"{words.attack_name(attack)}: " if len(attacks) > 1 else ""
        looks = Looks(report, shown)
        for log in (False, True):
            alt = (
                f"ROC of the {words.attack_name(attack)} attack on {'logarithmic' if log else 'linear'} axes: "
                + "; ".join(f"{row.label}, AUC {_auc_text(report, row, attack)}" for row, _ in kept)
            )
            panels.append(Panel(_roc_panel(report, attack, kept, looks, log, title), alt, width=4.3, height=3.9))
    return Figure(
        "roc",
        "ROC of the attack",
        "True positives over false positives. True positives are outputs of the models under test that the attack calls trained on the forget set. "
        "False positives are outputs of retrained models that it accuses wrongly. On linear axes a forgotten set follows the diagonal. Logarithmic axes show the corner "
        "that matters for privacy. A curve above the diagonal at its left end recognises some samples almost without error, whatever "
        "its AUC. Nothing is measured in the grey region, where the false-positive rate is less than one output."
        + remark,
        tuple(panels),
    )


def _auc_text(report: Report, row: ResultRow, attack: str) -> str:
    return words.number(row.value(metric_name(attack, "auc")), "fraction")


def _roc_panel(
    report: Report,
    attack: str,
    pairs: Sequence[tuple[ResultRow, RocCurve]],
    looks: Looks,
    log: bool,
    title: str,
) -> Callable[[Axes], None]:
    def panel(ax: Axes) -> None:
        positive = [f for _, curve in pairs for f in curve["fpr"] if f > 0]
        floor = min(0.1, min(positive, default=0.01))
        line = np.geomspace(floor / 3, 1, 100) if log else np.linspace(0, 1, 2)
        ax.plot(line, line, color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
        for row, curve in sorted(pairs, key=lambda pair: pair[0].baseline):
            fpr, tpr = np.asarray(curve["fpr"], float), np.asarray(curve["tpr"], float)
            if log:
                keep = (fpr > 0) & (tpr > 0)
                fpr, tpr = fpr[keep], tpr[keep]
            label = f"{words.shorten(row.label, 24)}  {_auc_text(report, row, attack)}"
            ax.plot(fpr, tpr, color=looks.colour(row), linestyle=looks.line(row), linewidth=1.5, label=label)
        ax.set_xlabel("false-positive rate")
        ax.set_ylabel("true-positive rate")
        if log:
            ax.set_xlim(floor / 3, 1)
            smallest = [
                t for _, curve in pairs for f, t in zip(curve["fpr"], curve["tpr"], strict=True) if f > 0 and t > 0
            ]
            ax.set_ylim(min([floor / 3, *smallest]), 1.15)
            plain_log(ax, "x")
            plain_log(ax, "y")
            ax.axvspan(floor / 3, floor, color=SOFT, linewidth=0)
            ax.set_title(f"{title}logarithmic")
        else:
            ax.set_xlim(0, 1)
            ax.set_ylim(0, 1.01)
            ax.legend(loc="lower right", title="row, AUC", title_fontsize=7.6)
            ax.set_title(f"{title}linear")

    return panel


def confidence_figure(report: Report) -> Figure | None:
    """How sure the attacker is, unlearned against retrained models, a panel for each row."""
    attack = report.attack_of(report.primary)
    found: dict[int, ConfidenceCurve] = {}
    for curve, row in of_rows(report, report.curves.get("confidence")):
        edges = curve.get("edges") or []
        if curve.get("attack") == attack and len(edges) == len(curve.get("unlearned") or []) + 1 > 1:
            found.setdefault(row.index, curve)
    candidates = [row for row in report.rows if row.index in found]
    if not candidates:
        return None
    shown = report.select(candidates, PANELS)

    def panel_of(row: ResultRow) -> Panel:
        curve = found[row.index]
        edges = np.asarray(curve["edges"], float)
        shares = [percents(curve[side]) for side in ("retrained", "unlearned")]

        def panel(ax: Axes) -> None:
            ours = "models under test" if row.baseline else "unlearned models"
            ax.stairs(shares[0], edges, fill=True, color=MUTED, alpha=0.35, label="retrained models")
            ax.stairs(shares[0], edges, color=MUTED, linewidth=0.9)
            ax.stairs(shares[1], edges, fill=True, color=SERIES[0], alpha=0.3, label=ours)
            ax.stairs(shares[1], edges, color=SERIES[0], linewidth=1.4)
            ax.set_xlim(edges[0], edges[-1])
            ax.set_ylim(0, None)
            ax.margins(y=0.25)
            ax.set_title(words.shorten(f"{row.label}: AUC {words.number(row.value(report.primary), 'fraction')}", 48))
            ax.set_xlabel("attacker's confidence that the sample was trained on")
            ax.set_ylabel("share of outputs (%)")
            ax.legend(loc="best")

        alt = f"Histogram of the attacker's confidence, {row.label}; " + " and ".join(
            f"{name} models mean {_mean(edges, share):.2f}"
            for name, share in zip(("retrained", "tested"), shares, strict=True)
        )
        return Panel(panel, alt, height=2.7)

    return Figure(
        "confidence",
        "How sure the attacker is",
        f"The {words.attack_name(attack)} attacker's confidence on forget-set outputs of the models under test (blue) and of retrained models (grey). "
        "After good unlearning the two lie on one another. Blue to the right of grey: still recognised. A blue pile at the left end: "
        "over-unlearned, the samples get too little confidence." + shown_of(shown, candidates),
        tuple(panel_of(row) for row in shown),
    )


def _mean(edges: np.ndarray, shares: np.ndarray) -> float:
    total = float(shares.sum())
    return float(((edges[:-1] + edges[1:]) / 2 * shares).sum() / total) if total else math.nan
