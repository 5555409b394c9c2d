"""`orchestrator table`: the results as csv, md or latex."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..base.errors import UserError
from ..report.show import table


def main(args: argparse.Namespace) -> int:
    require_results(args.folder)
    print(table(args.folder, args.format), end="")
    return 0


def require_results(folder: Path) -> None:
    """Raises `UserError` where `folder` holds no results."""
    if not (folder / "results.json").is_file():
        raise UserError(
            f"{folder}: no results here (results.json is missing); give the output folder of a finished run"
        )
