"""`orchestrator report`: tables, figures and the page again, from stored results."""

from __future__ import annotations

import argparse

from . import common


def arguments(parser: argparse.ArgumentParser) -> None:
    common.folder_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the results as one JSON document")


def main(args: argparse.Namespace) -> int:
    from ..experiments.run import rebuild
    from ..records.folder import open_folder
    from .common import print_json

    folder = open_folder(args.folder)
    document = rebuild(folder)
    if args.json:
        print_json(document)
    else:
        print(f"report: {folder.path / 'report.html'}")
    return 0
