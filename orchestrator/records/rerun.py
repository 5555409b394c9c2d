"""run.json: which store holds a run's results, and the command that goes on with the folder where
its recipe does not say all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..base.files import write_synced

RUN = "run.json"


@dataclass(frozen=True)
class Rerun:
    """What run.json says.

    **Attributes:** `store`: address of the store. `again`: that command; empty where `orchestrator
    retry` goes on.
    """

    store: str
    again: str = ""

    def write(self, folder: Path) -> None:
        """Writes it into an output folder."""
        facts = {"store": self.store, **({"again": self.again} if self.again else {})}
        write_synced(folder / RUN, json.dumps(facts).encode())


def read_rerun(folder: Path) -> Rerun | None:
    """Returns what an output folder's run.json says; None where it cannot be read."""
    try:
        facts = json.loads((folder / RUN).read_bytes())
        return Rerun(str(facts["store"]), str(facts.get("again", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def command_again(folder: Path) -> str:
    """Returns the command that goes on with a folder; empty where `orchestrator retry` does, or
    run.json cannot be read."""
    found = read_rerun(folder)
    return found.again if found else ""
