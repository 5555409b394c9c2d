"""The figures of a league: privacy against utility with the band of chance, and how each method was
tuned."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ...base.documents import LeagueDocument, LeagueRow, LeagueTrial, Tuned
from .. import league_tables, words
from ..colours import GRID, INK, MUTED, PAPER, SERIES
from .drawing import MARKERS, Figure, Panel
from .labels import Name, name_points

UTILITY = "error_test"
COLOUR = {"forget": SERIES[0], "statistics": SERIES[2], "retain": SERIES[1], "reference": INK}
SEES = {"forget": "sees D_f", "statistics": "sees D_f and statistics", "retain": "sees D_r", "reference": "reference"}
HEIGHT = 5.0  # inches, of the plane


def league_figures(document: LeagueDocument) -> list[Figure]:
    """Returns the plane of privacy and utility, and the history of each method's tuning."""
    return [plane(document), history(document)]


def _point(row: LeagueRow, privacy: str) -> tuple[float, float] | None:
    x, y = (row["cells"][name]["value"] if name in row["cells"] else None for name in (UTILITY, privacy))
    return None if x is None or y is None else (x, y)


def _band(row: LeagueRow, column: str) -> Sequence[float] | None:
    return row["cells"][column]["band"] if column in row["cells"] else None


def plane(document: LeagueDocument) -> Figure:
    """Returns each method as a point: the ranked number over the test error, with the band."""
    privacy = document["columns"][0]
    if document["objective"] != "auc_gap":
        privacy = {"klom": "klom/p95", "epsilon": "forgetting_quality/score"}[document["objective"]]
    known = [(row, point) for row in document["rows"] if (point := _point(row, privacy)) is not None]
    retrain = next(row for row in document["rows"] if row["method"] == "retrain")
    # A method that destroyed the model would squeeze all others together.
    usual = [x for row, (x, _) in known if row["rank"] is not None or row["group"] == "reference"]
    edge = max(usual) + 0.25 * (max(usual) - min(usual))

    def panel(ax: Axes) -> None:
        band, across = _band(retrain, privacy), _band(retrain, UTILITY)
        if band is not None:
            ax.axhspan(band[0], band[1], color=GRID, zorder=0, label="band of chance")
        if across is not None:
            ax.axvspan(across[0], across[1], color=GRID, alpha=0.5, zorder=0)
        shown: set[str] = set()
        names = []
        for row, (true, y) in known:
            x = min(true, edge)
            group = row["group"]
            cell = row["cells"][privacy]
            if cell["low"] is not None and cell["high"] is not None:
                ax.plot([x, x], [cell["low"], cell["high"]], color=COLOUR[group], linewidth=0.8, alpha=0.5)
            marker = "x" if group == "reference" else "o" if row["rank"] is not None else "^" if x == true else ">"
            label = SEES[group] if group not in shown else None
            shown.add(group)
            ax.plot([x], [y], marker, color=COLOUR[group], markersize=6, linestyle="", label=label)
            title = words.clean(row["title"]) + ("" if x == true else f" ({true:.0f} % error)")
            names.append(Name(title, x, y, MUTED if row["rank"] is None else INK))
        ax.autoscale_view()
        ax.set_ylim(ax.get_ylim())
        name_points(ax, names, 0.8 * HEIGHT)
        ax.set_xlabel("test error (%)  ← better")
        ax.set_ylabel(league_tables.heading(privacy))
        ax.legend(loc="upper left", bbox_to_anchor=(0, -0.14), ncols=3, borderaxespad=0)

    caption = (
        "Each point is a method, with the 95 % interval over models. Grey bands: where retrained models lie by chance. A method "
        "inside both bands cannot be told from Retrain by these two numbers. Triangles have no place: their test error rises beyond "
        "the bound, or they failed. Those at the right edge have a larger error, which is written beside them."
    )
    alt = (
        "Methods by test error and "
        + league_tables.heading(privacy)
        + ": "
        + "; ".join(f"{words.clean(row['title'])} {x:.1f} %, {y:.3f}" for row, (x, y) in known[:20])
    )
    return Figure("league-plane", "Privacy against utility", caption, (Panel(panel, alt, width=7.2, height=HEIGHT),))


def history(document: LeagueDocument) -> Figure:
    """Returns one panel a method: the objective of each setting in the order of trial."""
    tried = [each for each in document["tuned"] if each["trials"]]
    panels = tuple(_trials(each) for each in tried)
    caption = (
        "Objective of each setting on the validation fold, in the order of trial; lower is better, and 0.5 or more is beyond the bound. "
        "Squares are published settings, dots were drawn, filled ones were measured on all models. The star won."
    )
    return Figure("league-tuning", "How each method was tuned", caption, panels, columns=4)


def _trials(each: Tuned) -> Panel:
    def panel(ax: Axes) -> None:
        for trial in each["trials"]:
            marker, face = _look(trial)
            at = [trial["number"]], [_height(trial)]
            ax.plot(*at, color=SERIES[0], marker=marker, markersize=5.0, markerfacecolor=face)
        winner = next((trial for trial in each["trials"] if trial["winner"]), None)
        if winner is not None:
            ax.plot([winner["number"]], [_height(winner)], "*", color=SERIES[1], markersize=12)
        ax.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2)))
        ax.set_title(words.shorten(words.clean(each["title"]), 24))
        ax.set_ylim(-0.05, 1.05)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        ax.set_xlabel("setting")

    alt = f"Settings of {words.clean(each['title'])}: " + _alt(each["trials"])
    return Panel(panel, alt, width=2.5, height=1.9)


def _look(trial: LeagueTrial) -> tuple[str, str]:
    """Returns marker and fill of a setting."""
    if trial["status"] == "failed":
        return "x", SERIES[0]
    return MARKERS[0] if trial["source"] == "drawn" else "s", SERIES[0] if trial["status"] == "finished" else PAPER


def _height(trial: LeagueTrial) -> float:
    value = trial["objective"]
    return 1.0 if value is None else min(1.0, value)


def _alt(trials: Sequence[LeagueTrial]) -> str:
    return "; ".join(f"{trial['number']}: {_height(trial):.3f}" for trial in trials[:20])
