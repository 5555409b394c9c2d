"""`orchestrator compare`: runs side by side."""

from __future__ import annotations

import argparse

from ..base.errors import EnvironmentFault
from ..base.files import write_synced
from ..report.compare_page import compare_page
from ..report.show import compare
from .table import require_results


def main(args: argparse.Namespace) -> int:
    for folder in args.folders:
        require_results(folder)
    if args.page is None:
        print(compare(args.folders, args.format), end="")
        return 0
    try:
        write_synced(args.page, compare_page(args.folders).encode("utf-8", "replace"))
    except OSError as error:
        raise EnvironmentFault(f"--page: {str(args.page)!r}: cannot be written ({error.strerror})") from None
    print(f"page: {args.page}")
    return 0
