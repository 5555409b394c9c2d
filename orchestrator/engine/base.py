"""What an executor does: take a stage's missing units, say of each what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..plan.units import Outcome, Unit

Listener = Callable[[Outcome], None]
Starter = Callable[[Unit, str], None]


class Engine(Protocol):
    """Runs units somewhere. Used as a context manager, so that what it started is stopped."""

    starting: Starter | None  # told, where it is known, that a unit begins and on which node

    @property
    def slots(self) -> int:
        """How many models are trained at once."""
        ...

    def describe(self) -> str:
        """Returns one line that says where units run."""
        ...

    def run(self, stage: str, units: Sequence[Unit], listener: Listener) -> None:
        """Runs `units`, which do not depend on each other, and tells `listener` the outcome of each as it comes."""
        ...

    def close(self) -> None:
        """Stops whatever this executor started."""
        ...
