"""Installs the project into fresh virtual environments and runs a tiny experiment in each.

`python -m tests.environments [--python PYTHON …] [--extra NAME …] [--folder DIR]`. Nothing is taken from
this checkout's own environment. It ends with 1 where one of them does not work.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .fresh import Found, copy_of_tree, extras, try_one

FAILED = 1


def run() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.environments", description=__doc__)
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters (default: this one)")
    parser.add_argument("--extra", nargs="+", default=["none"], help="extras, `none`, or `all` for each in turn")
    parser.add_argument("--recipe", default="tiny", help="a shipped recipe instead of the tiny one")
    parser.add_argument("--folder", type=Path, help="where environments are made, one at a time (default: temporary)")
    args = parser.parse_args()
    wanted = ["none", *extras()] if args.extra == ["all"] else args.extra
    found: list[Found] = []
    with tempfile.TemporaryDirectory(prefix="environments-", dir=args.folder) as folder:
        source = copy_of_tree(Path(folder) / "source")
        for python in args.python:
            for extra in wanted:
                found.append(try_one(python, extra, source, Path(folder), args.recipe))
                print(found[-1].line(), flush=True)
    return 0 if all(each.works for each in found) else FAILED


if __name__ == "__main__":
    raise SystemExit(run())
