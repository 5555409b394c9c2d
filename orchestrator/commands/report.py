"""`orchestrator report`: tables, figures and the page again, from stored results."""

from __future__ import annotations

import argparse

from ..experiments.run import rebuild
from ..records.folder import open_whole
from .ending import print_json


def main(args: argparse.Namespace) -> int:
    folder = open_whole(args.folder)
    document = rebuild(folder, allow_factory=args.allow_factory)
    if args.json:
        print_json(document)
    else:
        print(f"report: {folder.path / 'report.html'}")
    return 0
