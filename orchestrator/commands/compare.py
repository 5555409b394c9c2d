"""`orchestrator compare`: runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from .table import require_results


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="DIR", type=Path, nargs="+", help="output folders")
    parser.add_argument("--format", choices=("csv", "md", "latex"), default="md", help="default: md")


def main(args: argparse.Namespace) -> int:
    from ..report import compare

    for folder in args.folders:
        require_results(folder)
    print(compare(args.folders, args.format), end="")
    return 0
