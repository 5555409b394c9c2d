"""`orchestrator compare`: runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..base.errors import EnvironmentFault, UserError
from ..base.files import write_synced
from ..base.values import finite
from ..report.compare import compare_document
from ..report.compare_page import PAGE_MARK, compare_page
from ..report.show import compare
from .ending import print_json
from .table import require_results


def main(args: argparse.Namespace) -> int:
    for folder in args.folders:
        require_results(folder)
    if args.page is None:
        if args.json:
            print_json(finite(compare_document(args.folders)))
        else:
            print(compare(args.folders, args.format), end="")
        return 0
    try:
        _require_own(args.page)
        write_synced(args.page, compare_page(args.folders).encode("utf-8", "replace"))
    except OSError as error:
        raise EnvironmentFault(f"--page: {str(args.page)!r}: cannot be written ({error.strerror})") from None
    if args.json:
        print_json({"page": str(args.page)})
    else:
        print(f"page: {args.page}")
    return 0


def _require_own(page: Path) -> None:
    """Raises `UserError` where a file that is no page of `compare` would be replaced."""
    if page.is_file():
        with page.open("rb") as file:
            ours = PAGE_MARK.encode() in file.read(4096)
        if not ours:
            raise UserError(f"--page: {str(page)!r}: is no page of `compare` and would be replaced; give another name")
