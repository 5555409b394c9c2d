"""What an engine does: it takes a stage's missing units and reports the outcome of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..plan.objective import Measured
from ..plan.units import Outcome, Unit

Listener = Callable[[Outcome], None]
Starter = Callable[[Unit, str], None]


@dataclass(frozen=True)
class SettingReport:
    """What a step of a search reports: the outcomes of its units, and what was measured or what
    failed.
    """

    outcomes: tuple[Outcome, ...]
    measured: Measured | None = None
    failed: str = ""


class Engine(Protocol):
    """Runs units somewhere. Call `close` at the end, so that what it started is stopped."""

    starting: Starter | None  # told that a unit begins and on which node, where that is known

    @property
    def slots(self) -> int:
        """How many models are trained at once."""
        ...

    def describe(self) -> str:
        """Returns one line that says where units run."""
        ...

    def run(self, stage: str, units: Sequence[Unit], listener: Listener) -> None:
        """Runs `units`, which do not depend on each other, and tells `listener` each outcome as it
        comes.
        """
        ...

    def close(self) -> None:
        """Stops whatever this engine started."""
        ...
