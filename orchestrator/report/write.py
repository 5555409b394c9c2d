"""The files of a report: tables, figures and the page."""

from __future__ import annotations

from pathlib import Path

from ..base.files import write_synced
from . import tables
from .figures.drawing import render
from .figures.figures import draw
from .figures.pareto import search_figures
from .league_page import write_league
from .page import page
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
    drawings = [render(figure) for figure in draw(report) + search_figures(folder, report)]
    for drawing in drawings:
        for name, content in drawing.files.items():
            write(folder / name, content)
    write(folder / "report.html", page(report, drawings))
    return written + write_league(folder)
