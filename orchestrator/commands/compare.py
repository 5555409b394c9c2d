"""`orchestrator compare`: runs side by side."""

from __future__ import annotations

import argparse

from ..report.show import compare
from .table import require_results


def main(args: argparse.Namespace) -> int:
    for folder in args.folders:
        require_results(folder)
    print(compare(args.folders, args.format), end="")
    return 0
