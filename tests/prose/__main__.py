"""Prints what offends, by file: `python -m tests.prose [FILE…] [--shrink]`.

Without files it looks at every file that must pass and ends with 1 where one does not.
With `--all` it looks at the files that need not pass yet, too.
`--shrink` takes files out of `not_yet.txt` that pass by now, or that are gone.
`--wrap` wraps docstrings and comments of the files first; sentences are left to people.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .check import COLUMNS, MARKDOWN, NOT_YET, PROGRAM, ROOT, files, not_yet, offences
from .wrap import wrapped


def main() -> int:
    """Returns the exit code: 1 where something offends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--all", action="store_true", help="also files that need not pass yet")
    parser.add_argument("--shrink", action="store_true", help="take files that pass out of the list")
    parser.add_argument("--wrap", action="store_true", help="wrap docstrings and comments of FILE… first")
    args = parser.parse_args()
    if args.wrap:
        for path in (Path(name) for name in args.files if name.endswith(".py")):
            path.write_text(wrapped(path.read_text(encoding="utf-8"), COLUMNS), encoding="utf-8")
    listed = not_yet()
    if args.shrink:
        listed = [name for name in listed if (ROOT / name).exists() and offences(ROOT / name)]
        NOT_YET.write_text("".join(f"{name}\n" for name in sorted(set(listed))), encoding="utf-8")
    names = args.files or [name for name in files(MARKDOWN + PROGRAM) if args.all or name not in listed]
    failed = 0
    for name in names:
        found = offences(Path(name) if args.files else ROOT / name)
        if found:
            failed += 1
            print(name, *found, sep="\n")
    print(f"{len(names)} files looked at, {failed} with offences, {len(listed)} not in plain English yet")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
