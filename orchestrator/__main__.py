"""`python -m orchestrator` is the command `orchestrator`."""

from __future__ import annotations

from .commands.cli import console

if __name__ == "__main__":
    console()
