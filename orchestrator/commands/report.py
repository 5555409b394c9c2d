"""`orchestrator report`: tables, figures and the page again, from stored results."""

from __future__ import annotations

import argparse
import sys

from ..experiments.results import NOT_DONE
from ..experiments.run import rebuild
from ..records.folder import OutputFolder, open_whole
from ..records.rerun import command_again
from .ending import print_json


def main(args: argparse.Namespace) -> int:
    folder = open_whole(args.folder)
    folder.lock()  # a run at work writes the same files
    try:
        return _report(folder, args)
    finally:
        folder.unlock()


def _report(folder: OutputFolder, args: argparse.Namespace) -> int:
    document = rebuild(folder, allow_factory=args.allow_factory)
    if args.json:
        print_json(document)
    else:
        print(f"report: {folder.path / 'report.html'}")
    if left := sum(row["status"] == "failed" and row["error"].endswith(NOT_DONE) for row in document["rows"]):
        again = command_again(folder.path) or f"orchestrator retry {folder.path}"
        print(f"{left} of {len(document['rows'])} rows are not done yet; `{again}` goes on", file=sys.stderr)
    return 0
