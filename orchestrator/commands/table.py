"""`orchestrator table`: the results as csv, md, latex or JSON."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..base.errors import UserError
from ..base.values import finite
from ..report.rows import Report
from ..report.show import table
from ..report.tables import Style, to_document
from .ending import print_json


def main(args: argparse.Namespace) -> int:
    require_results(args.folder)
    names = tuple(name.strip() for name in (args.columns or "").split(",") if name.strip())
    style = Style(names, args.caption or "", args.label or "")
    if (args.json or args.format != "latex") and style != Style():
        raise UserError("--columns, --caption, --label: they are of LaTeX; add --format latex")
    if args.json:
        print_json(finite(to_document(Report.load(args.folder))))
    else:
        print(table(args.folder, args.format, style), end="")
    return 0


def require_results(folder: Path) -> None:
    """Raises `UserError` where `folder` holds no results."""
    if not (folder / "results.json").is_file():
        raise UserError(
            f"{folder}: no results here (results.json is missing); give the output folder of a finished run"
        )
