"""The command that goes on with an output folder, where its recipe does not say all."""

from __future__ import annotations

import json
from pathlib import Path

RUN = "run.json"
AGAIN = "again"


def command_again(folder: Path) -> str:
    """Returns that command; empty where `orchestrator retry` goes on."""
    try:
        return str(json.loads((folder / RUN).read_bytes()).get(AGAIN, ""))
    except (OSError, ValueError, AttributeError):
        return ""
