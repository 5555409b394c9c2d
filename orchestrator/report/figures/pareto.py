"""The figure of a search: what each setting makes of privacy and of test error, from
`search.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from ...base.documents import SearchDocument, Trial
from ...base.text import varying_names
from ...base.values import Object
from .. import words
from ..colours import INK, MUTED, PAPER, SERIES
from ..rows import Report
from .drawing import Figure, Panel

PARETO = "pareto"
PALE = 0.35
LABELLED = 6


def search_figures(folder: Path, report: Report) -> list[Figure]:
    """Returns the figure of the search that chose this report's methods; none where they are not
    those of a search."""
    try:
        document = json.loads((folder / "search.json").read_text(encoding="utf-8"))
        # A folder may hold an older search beside the results of another recipe.
        if document["search"] != report.recipe.get("search") or document["methods"] != report.recipe.get("methods"):
            return []
        return [pareto_figure(document)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


@dataclass(frozen=True)
class _Measured:
    """A setting that was measured: its rise of test error in points and its AUC gap."""

    params: Object
    rise: float
    gap: float

    @classmethod
    def of(cls, trial: Trial) -> _Measured | None:
        rise, gap = trial["error_rise"], trial["auc_gap"]
        return None if rise is None or gap is None else cls(trial["params"], rise, gap)


def pareto_figure(document: SearchDocument) -> Figure:
    """Returns the settings of a search as points: |AUC − 0.5| over the rise of test error, with
    front, bound and winner."""
    trials = document["trials"]
    points_of = {i: _Measured.of(trial) for i, trial in enumerate(trials) if trial["status"] != "failed"}
    known = {i: point for i, point in points_of.items() if point is not None}
    measured = list(known.values())
    finished = [point for i, point in known.items() if trials[i]["status"] == "finished"]
    stopped = [point for i, point in known.items() if trials[i]["status"] == "stopped"]
    failed = sum(trial["status"] == "failed" for trial in trials)
    front = [known[i] for i in document["front"]]
    winner = None if document["winner"] is None else known[document["winner"]]
    bound = document["bound"]
    names = varying_names([trial["params"] for trial in trials])
    right = _right(measured, front, bound)
    outside = [trial for trial in measured if trial.rise > right]

    def points(ax: Axes, which: Sequence[_Measured], label: str, alpha: float) -> None:
        inside = [trial for trial in which if trial.rise <= right]
        ax.plot(*_xy(inside), "o", markersize=6, label=label, color=SERIES[0], alpha=alpha, markeredgewidth=0)
        ax.plot(
            [right] * len(which[len(inside) :]),
            _gaps(which, right),
            ">",
            markersize=6,
            clip_on=False,
            color=SERIES[0],
            alpha=alpha,
            markeredgewidth=0,
        )

    def panel(ax: Axes) -> None:
        if stopped:
            points(ax, stopped, "stopped early", PALE)
        if finished:
            points(ax, finished, "measured on all models", 1.0)
        if front:
            ax.plot(*_xy(front), color=SERIES[0], linewidth=1.2, label="Pareto front", zorder=1.5)
        ax.plot([0.0], [document["no_unlearn"]["auc_gap"]], "x", color=MUTED, markersize=7, label="no unlearning")
        if bound is not None and bound <= right:
            ax.axvline(bound, color=INK, linewidth=1.0, linestyle=(0, (4, 2)), label="bound")
        if winner is not None:
            ax.plot(*_xy([winner]), "*", color=SERIES[1], markersize=13, label="winner", zorder=4)
        left = min([0.0, *(trial.rise for trial in measured)])
        ax.set_xlim(left - 0.06 * (right - left), right)
        highest = max([0.05, document["no_unlearn"]["auc_gap"], *(trial.gap for trial in measured)])
        ax.set_ylim(-0.03 * highest, 1.12 * highest)  # a point at 0 is seen whole
        for trial in front[:LABELLED]:
            if trial.rise <= right:
                _label(ax, trial, _short(trial.params, names), left, right)
        ax.set_xlabel("rise of test error over no unlearning (points)  ← better")
        ax.set_ylabel("|attack AUC − 0.5|  ↓ better")
        ax.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=3, borderaxespad=0)

    caption = (
        f"Settings of {document.get('title') or document['method']} on the validation fold ({words.count(document['models'], 'model')}). "
        "Lower is more private, further left is more accurate. The line joins the settings that no other one beats in both; pale "
        "points were stopped by ASHA and measured on fewer models. "
        + (f"Right of the dashed line a setting is beyond the bound of {bound:g} points. " if bound is not None else "")
        + (f"{words.count(len(outside), 'setting')} beyond the right edge: drawn as ▸. " if outside else "")
        + (f"{words.count(failed, 'setting')} failed. " if failed else "")
        + " ".join(document["notes"])
    )
    alt = "Settings by rise of test error and AUC gap; Pareto front: " + "; ".join(
        f"{words.parameters_text(trial.params, names)}: {trial.rise:+.2f} points, {trial.gap:.3f}"
        for trial in front[:12]
    )
    return Figure(PARETO, "What the search found", caption, (Panel(panel, alt, width=5.4, height=4.2),))


def _short(params: Object, names: Sequence[str]) -> str:
    """Returns the parameters with three digits: enough to find a point again in `search.json`."""
    rounded = {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in params.items()}
    return words.parameters_text(rounded, names, limit=30)


def _xy(points: Sequence[_Measured]) -> tuple[list[float], list[float]]:
    return [point.rise for point in points], [point.gap for point in points]


def _gaps(points: Sequence[_Measured], right: float) -> list[float]:
    return [point.gap for point in points if point.rise > right]


def _right(measured: Sequence[_Measured], front: Sequence[_Measured], bound: float | None) -> float:
    """Returns where the axis ends: a ruined model's 80 points would press all others against its
    beginning."""
    wanted = 1.5 * max([1.0, bound or 0.0, *(min(trial.rise, 20.0) for trial in front)])
    return min(2.0 * wanted, max([wanted, *(1.06 * trial.rise for trial in measured)]))


def _label(ax: Axes, trial: _Measured, text: str, left: float, right: float) -> None:
    """Writes parameters beside a point, on the side where there is room."""
    far = trial.rise > left + 0.55 * (right - left)
    ax.annotate(
        text,
        (trial.rise, trial.gap),
        xytext=(-6, 6) if far else (6, 6),
        textcoords="offset points",
        ha="right" if far else "left",
        fontsize=7,
        color=INK,
        bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
    )
