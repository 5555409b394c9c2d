"""`orchestrator reproduce`: the paper's tables and figures, measured beside published."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..base.errors import EXIT_OK, EXIT_UNITS_FAILED
from ..experiments.reproduce import ITEMS, chosen, price
from ..experiments.reproduce.item import Item
from ..experiments.reproduce.page import SYMBOLS, counts
from ..experiments.reproduce.runner import document, run_items
from ..store import existing_store
from .ending import print_json


def main(args: argparse.Namespace) -> int:
    items = chosen(args.items)
    folder = args.output or Path("runs") / f"reproduce-{args.size}"
    if args.plan_only:
        return _plan(items, args, folder)

    def say(text: str) -> None:
        if not args.quiet:
            print(text, file=sys.stderr, flush=True)

    findings, failed = run_items(
        items,
        args.size,
        folder,
        catalogue=list(ITEMS.values()),
        overrides=args.overrides,
        store=args.store,
        address=args.address,
        quiet=args.quiet,
        force=args.force,
        say=say,
    )
    if args.json:
        print_json(document(findings, args.size))
    else:
        for finding in findings:
            print(finding.item.title)
            for text, verdict in finding.verdicts:
                print(f"  {SYMBOLS[verdict.word]} {verdict.word}: {text}")
        print(counts(findings))
        print(f"page: {folder / 'index.html'}")
    return EXIT_UNITS_FAILED if failed else EXIT_OK


def _plan(items: Sequence[Item], args: argparse.Namespace, folder: Path) -> int:
    prices = price.price(items, args.size, args.overrides, existing_store(args.store or str(folder / "store")))
    if args.json:
        print_json({"size": args.size, "items": price.documents(prices)})
    else:
        print(price.table(prices))
    return EXIT_OK
