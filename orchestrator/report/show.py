"""What commands print of results: nothing is drawn here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group

from ..base.documents import Results
from . import tables, terminal
from .compare import compare_runs
from .rows import Report


def table(output_dir: str | Path, format: str = "md", style: tables.Style = tables.PLAIN) -> str:
    """Returns the result table of a finished run as `csv`, `md` or `latex`.

    **Raises:** `ValueError` for another format, or where there are no results.
    """
    return tables.render(Report.load(Path(output_dir)), format, style)


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
