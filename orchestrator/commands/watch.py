"""`orchestrator watch`: follow a run from its folder, from any machine that sees it."""

from __future__ import annotations

import argparse
import sys
import time

from . import common
from .status import read_state, render


def arguments(parser: argparse.ArgumentParser) -> None:
    common.folder_argument(parser)
    parser.add_argument("--interval", type=float, default=2.0, metavar="SECONDS", help="how often to look (default: 2)")


def main(args: argparse.Namespace) -> int:
    folder = common.open_folder(args.folder)
    live = sys.stdout.isatty()
    shown = ""
    while True:
        state = read_state(folder)
        text = render(state)
        if text != shown:
            # On a terminal the picture is replaced; elsewhere each change is a block of plain lines.
            print(("\x1b[H\x1b[2J" if live else "") + text, flush=True)
            shown = text
        if state["state"] != "running":
            return 1 if state["failures"] else 0
        time.sleep(max(0.2, args.interval))
