"""Many drawn inputs of every kind: `python -m tests.fuzz [--inputs N] [--seed N] [--kind NAME …]`; ends with 1 where one fails."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from .harness import KINDS, problem_of, warm_up


def run() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000, help="inputs in all (default: 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=sorted(KINDS), nargs="+", default=list(KINDS))
    args = parser.parse_args()
    warm_up()
    started, failed, home = time.monotonic(), 0, os.getcwd()
    for number in range(args.inputs):
        kind, seed = args.kind[number % len(args.kind)], args.seed + number
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            os.chdir(folder)
            problem = problem_of(kind, seed, Path(folder))
            os.chdir(home)
        if problem:
            failed += 1
            print(f"{kind} {seed}: {problem}", flush=True)
    print(f"{args.inputs} inputs, {failed} failed, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(run())
