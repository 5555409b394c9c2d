"""`python -m orchestrator` is the command `orchestrator`."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def _working_folder_last() -> None:
    """Moves the working folder behind our packages, which a folder `attack/` in it would hide."""
    package = Path(__file__).resolve().parents[1]
    if sys.path and os.path.realpath(sys.path[0] or os.curdir) == os.path.realpath(os.curdir) != str(package):
        here = sys.path.pop(0)
        if str(package) not in sys.path:
            # An editable install is found by a hook that looks after all folders of sys.path.
            sys.path.append(str(package))
        sys.path.append(here)


if __name__ == "__main__":
    _working_folder_last()

    from .commands.cli import console

    console()
