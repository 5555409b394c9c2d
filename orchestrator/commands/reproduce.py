"""`orchestrator reproduce`: the paper's tables and figures, measured beside published."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..base.errors import EXIT_OK, EXIT_UNITS_FAILED
from . import common


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "items",
        metavar="ITEM",
        nargs="+",
        help="table1 … table4, figure1 … figure6, ablation-criterion and its like, ablations, or all",
    )
    parser.add_argument(
        "--size",
        choices=("mini", "paper"),
        default="mini",
        help="mini: about ten minutes each on two CPU cores; paper: the full setting, for GPUs (default: mini)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=common.folder_name,
        help="folder of all results (default: runs/reproduce-SIZE)",
    )
    common.force_argument(parser)
    parser.add_argument("--store", metavar="DIR|s3://…", help="store of finished units (default: OUTPUT/store)")
    parser.add_argument("--address", metavar="auto|HOST:PORT|local", help="Ray cluster to use (default: as for `run`)")
    parser.add_argument(
        "--set", dest="overrides", metavar="a.b=v", action="append", default=[], help="override a value in every recipe"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def main(args: argparse.Namespace) -> int:
    from ..experiments.reproduce import chosen
    from ..experiments.reproduce.runner import document, run_items
    from .common import print_json

    items = chosen(args.items)
    folder = args.output or Path("runs") / f"reproduce-{args.size}"

    def say(text: str) -> None:
        if not args.quiet:
            print(text, file=sys.stderr, flush=True)

    findings, failed = run_items(
        items,
        args.size,
        folder,
        overrides=args.overrides,
        store=args.store,
        address=args.address or os.environ.get("RAY_ADDRESS"),
        quiet=args.quiet,
        force=args.force,
        say=say,
    )
    if args.json:
        print_json(document(findings, args.size))
    else:
        from ..experiments.reproduce.page import SYMBOLS, counts

        for finding in findings:
            print(finding.item.title)
            for text, verdict in finding.verdicts:
                print(f"  {SYMBOLS[verdict.word]} {verdict.word}: {text}")
        print(counts(findings))
        print(f"page: {folder / 'index.html'}")
    return EXIT_UNITS_FAILED if failed else EXIT_OK
