"""Commits a finished unit to the store."""

from __future__ import annotations

import socket
import time
from typing import Any

from ..plan.units import Unit
from ..store import Attempt


def commit_unit(unit: Unit, attempt: Attempt, meta: dict[str, Any], seconds: float, where: str = "") -> None:
    """Commits what a unit produced, with the facts that every unit carries."""
    common = {
        "kind": unit.kind,
        "name": unit.name,
        "spec": dict(unit.spec),
        "cost": unit.cost,
        "seconds": seconds,
        "host": where or socket.gethostname(),
        "finished": time.time(),
    }
    attempt.commit({**common, **meta})
