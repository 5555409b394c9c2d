"""What an engine does: it takes a run's missing units and reports the outcome of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..plan.objective import Measured
from ..plan.units import MODEL_KINDS, Outcome, Unit, weight_of
from .queue import Needs, QueuedUnit

# What a GPU makes faster.
DEVICE_KINDS = frozenset({"train", "unlearn", "outputs", "unseen", "retained", "sleep"})


def queued(units: Sequence[Unit]) -> list[QueuedUnit]:
    """Returns what a queue has to know of `units`.

    A unit waits for the units of this run among its needs. It also waits for what its other needs
    would wait for.
    """
    places = {unit.key: place for place, unit in enumerate(units)}
    seen: dict[str, frozenset[int]] = {}

    def blocking(unit: Unit) -> frozenset[int]:
        found: set[int] = set()
        for need in unit.needs:
            if need.key in places:
                found.add(places[need.key])
            else:
                if need.key not in seen:
                    seen[need.key] = blocking(need)
                found |= seen[need.key]
        return frozenset(found)

    return [
        QueuedUnit(
            unit.name,
            unit.spec.shares or unit.key,
            weight_of(unit),
            blocking(unit),
            unit.kind in DEVICE_KINDS,
            unit.kind in MODEL_KINDS,
        )
        for unit in units
    ]


class Listener:
    """Told in the driver what becomes of units; does nothing by itself. What it raises ends the
    run.
    """

    def begun(self, unit: Unit, where: str) -> None:
        """A worker on the node `where` begins with a unit, as far as that is known."""

    def ended(self, unit: Unit, outcome: Outcome) -> None:
        """A unit was made, was found made, or failed; told once for each."""

    def broken(self, unit: Unit) -> None:
        """A unit will not be made, since a model that it needs has failed."""


class Told(Listener):
    """Passes outcomes on to a function, for scripts that want no more."""

    def __init__(self, tell: Callable[[Outcome], object]):
        self._tell = tell

    def ended(self, unit: Unit, outcome: Outcome) -> None:
        self._tell(outcome)


class Ledger:
    """What has become of a run's units so far; tells the listener each thing once."""

    def __init__(self, units: Sequence[Unit], listener: Listener):
        self.listener = listener
        self._units = units
        self._places = {unit.key: place for place, unit in enumerate(units)}
        self._needs = Needs(queued(units))
        self._settled: set[str] = set()

    def settle(self, outcome: Outcome) -> None:
        """Takes in the outcome of a unit, and what that breaks."""
        if outcome.key in self._settled:
            return
        place = self._places[outcome.key]
        self._settled.add(outcome.key)
        self.listener.ended(self._units[place], outcome)
        if outcome.failed:
            for unit in self.left([self._units[other] for other in self._needs.broken_by(place)]):
                self._settled.add(unit.key)
                self.listener.broken(unit)

    def left(self, units: Sequence[Unit]) -> list[Unit]:
        """Returns those of `units` that nothing is known of yet."""
        return [unit for unit in units if unit.key not in self._settled]

    def behind(self, units: Sequence[Unit]) -> list[Unit]:
        """Returns all units that need one of these, directly or not."""
        places = self._needs.behind(self._places[unit.key] for unit in units)
        return [self._units[place] for place in places]


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

    @property
    def slots(self) -> int:
        """How many models are trained at once."""
        ...

    def describe(self) -> str:
        """Returns one line that says where units run."""
        ...

    def run(self, units: Sequence[Unit], listener: Listener) -> None:
        """Runs `units`, each as soon as what it needs is settled."""
        ...

    def close(self) -> None:
        """Stops whatever this engine started."""
        ...
