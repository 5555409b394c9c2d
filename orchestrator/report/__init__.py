"""Tables, figures and the page of an experiment, from `results.json` and `curves.json` alone.

Equal input gives equal files, byte for byte: nothing here knows the time, the machine or an order
other than the rows' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group

from ..base.documents import Results
from ..base.files import write_synced
from . import page, tables, terminal
from .compare import compare_runs
from .figures.drawing import render
from .figures.figures import draw
from .figures.pareto import search_figures
from .rows import Report

TABLES = {"results.csv": "csv", "results.md": "md", "results.tex": "latex"}


def write_report(output_dir: str | Path) -> list[Path]:
    """Writes `tables/`, `figures/` and `report.html` from the results in `output_dir`; returns the
    files written.

    Each file is replaced whole or not at all. Nothing is removed.

    **Raises:** `ValueError` where `results.json` is missing or not a results document.
    """
    folder = Path(output_dir)
    report = Report.load(folder)
    written = []

    def write(path: Path, content: str | bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A text from elsewhere may hold half a surrogate pair, which no encoding has a place for.
        write_synced(path, content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
        written.append(path)

    for name, format in TABLES.items():
        write(folder / "tables" / name, tables.render(report, format))
    figures = draw(report) + search_figures(folder, report)
    for figure in figures:
        svg, png = render(figure)
        write(folder / "figures" / f"{figure.name}.svg", svg)
        write(folder / "figures" / f"{figure.name}.png", png)
    write(folder / "report.html", page.page(report, figures))
    return written


def table(output_dir: str | Path, format: str = "md") -> str:
    """Returns the result table of a finished run as `csv`, `md` or `latex`.

    **Raises:** `ValueError` for another format, or where there are no results.
    """
    return tables.render(Report.load(Path(output_dir)), format)


def compare(dirs: Sequence[str | Path], format: str = "md") -> str:
    """Returns runs side by side: what differs in their recipes, and each row that they share with
    the difference to the first run.

    **Raises:** `ValueError` for another format, no run, or one without results.
    """
    return compare_runs([Path(each) for each in dirs], format)


def terminal_table(results: Results) -> Group:
    """Returns the table that a command ends with, from a results document: several where one would
    be too wide."""
    return terminal.render(Report(results))


__all__ = ["compare", "table", "terminal_table", "write_report"]
