"""Runs side by side as a page: what differs in their recipes, then each row and metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import words
from .compare import DIFFERENCE_NOTE, VERDICT, Line, difference, lines, recipe_differences, run_names, value
from .rows import Report
from .templates import render

PAGE_MARK = ": runs side by side</title>"  # of the template: a page of ours is known by it


def compare_page(dirs: Sequence[Path]) -> str:
    """Returns one self-contained HTML file; every text is escaped.

    **Raises:** `ValueError` where a folder has no results.
    """
    reports = [Report.load(folder, f"run {place}") for place, folder in enumerate(dirs)]
    names = run_names(dirs)
    values = dict(
        names=names,
        recipe=recipe_differences(reports),
        groups=_groups(list(lines(reports)), len(names)),
        note=DIFFERENCE_NOTE,
        missing=words.NOT_MEASURABLE,
    )
    return render("compare.html", values)


def _groups(table: Sequence[Line], runs: int) -> list[dict[str, object]]:
    """Returns the lines of each row under one heading; a verdict is marked as such."""
    found: dict[tuple[str, str], list[dict[str, object]]] = {}
    for line in table:
        values = [value(line, run) for run in range(runs)]
        cells = [difference(line, run) for run in range(1, runs)]
        entry = {
            "heading": line.metric.heading,
            "values": values,
            "differences": cells,
            "verdict": line.metric is VERDICT,
        }
        found.setdefault((line.title, line.shown), []).append(entry)
    return [{"title": title, "shown": shown, "lines": entries} for (title, shown), entries in found.items()]
