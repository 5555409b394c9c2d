"""Commits a finished unit to the store."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping

from ..plan.facts import Facts, Made
from ..plan.units import Unit
from ..store import Attempt


def commit_unit(
    unit: Unit, attempt: Attempt, facts: Facts | Mapping[str, object], seconds: float, where: str = ""
) -> None:
    """Commits what a unit produced, with the facts that every unit carries."""
    host = where or socket.gethostname()
    made = Made(unit.kind, unit.name, unit.spec.identity(), unit.cost, seconds, host, time.time())
    attempt.commit({**made.to_json(), **(facts.to_json() if isinstance(facts, Facts) else facts)})
