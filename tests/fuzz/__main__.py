"""Many drawn inputs of every kind: `python -m tests.fuzz [--inputs N] [--seed N] [--kind NAME …]`.

It prints each input that does not end in order, keeps its files where `--keep` says, and ends with 1
where there is one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from .harness import few_figures, search, warm_up
from .inputs import KINDS, Input


def run() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000, help="inputs in all (default: 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=sorted(KINDS), nargs="+", default=list(KINDS))
    parser.add_argument("--keep", type=Path, help="folder for the files of inputs that fail")
    args = parser.parse_args()
    started, ran, failed = time.monotonic(), 0, 0

    def report(drawn: Input, problem: str) -> None:
        nonlocal failed
        failed += 1
        print(f"{kind}: {' '.join(drawn.arguments)}: {problem}", flush=True)
        for name, content in drawn.files.items() if args.keep else ():
            place = args.keep / f"{kind}-{failed}" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)

    with few_figures():
        warm_up()
        for number, kind in enumerate(args.kind):
            share = args.inputs // len(args.kind) + (number < args.inputs % len(args.kind))
            done = search(kind, share, args.seed, report)
            ran += done
            print(f"{kind}: {done} inputs, {time.monotonic() - started:.0f} s so far", flush=True)
    print(f"{ran} inputs, {failed} failed, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(run())
