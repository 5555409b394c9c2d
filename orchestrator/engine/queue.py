"""One queue for a whole run: a unit is ready when what it needs is settled.

Of what is ready, the unit with the longest path of work behind it goes first. Units that share an
input go to one worker. What a lost worker had comes again.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueuedUnit:
    """What a queue knows of a unit. Plain values, so that the queue's process imports no library.

    **Arguments:**

    - `name`: orders units that are alike in all else. `group`: of units that share an input.
    - `weight`: how much work it is. `needs`: places of the units that it waits for.
    - `for_device`: whether a GPU makes it faster.
    - `makes_model`: whether nothing behind it can be made where it fails.
    """

    name: str
    group: str
    weight: float
    needs: frozenset[int]
    for_device: bool
    makes_model: bool


class Needs:
    """Which units of a run wait for which others.

    - `dependents`: for each unit the places of those that wait for it.
    - `waiting`: for each unit how many of the others it waits for.
    """

    def __init__(self, units: Sequence[QueuedUnit]):
        self._units = units
        self.dependents: list[list[int]] = [[] for _ in units]
        self.waiting = [len(unit.needs) for unit in units]
        for place, unit in enumerate(units):
            for other in unit.needs:
                self.dependents[other].append(place)

    def behind(self, places: Iterable[int]) -> list[int]:
        """Returns all units that need one of these, directly or not."""
        found: dict[int, None] = {}
        left = list(places)
        while left:
            new = [other for other in self.dependents[left.pop()] if other not in found]
            found.update(dict.fromkeys(new))
            left += new
        return list(found)

    def broken_by(self, place: int) -> list[int]:
        """Returns the units that cannot be made because this one has failed: all behind it, where
        it makes a model. Others say themselves what they miss.
        """
        return self.behind([place]) if self._units[place].makes_model else []

    def paths(self) -> list[float]:
        """Returns for each unit its own weight and the weights of the longest chain behind it."""
        waiting, order = list(self.waiting), deque(i for i, count in enumerate(self.waiting) if not count)
        sequence: list[int] = []
        while order:
            place = order.popleft()
            sequence.append(place)
            for other in self.dependents[place]:
                waiting[other] -= 1
                if not waiting[other]:
                    order.append(other)
        found = [unit.weight for unit in self._units]
        for place in reversed(sequence):
            found[place] += max((found[other] for other in self.dependents[place]), default=0.0)
        return found


class _Pool:
    """Ready units, in groups that share an input."""

    def __init__(self, units: Sequence[QueuedUnit], paths: Sequence[float]):
        self._units, self._paths = units, paths
        self._groups: dict[str, list[tuple[float, str, int]]] = {}
        self._work: dict[str, float] = {}
        self._untouched: list[tuple[float, str, str]] = []
        self._begun: set[str] = set()
        self._shared: dict[str, None] = {}  # groups that are begun and not used up

    def add(self, place: int) -> None:
        """Takes in a unit that has become ready."""
        unit = self._units[place]
        group = unit.group
        self._work[group] = self._work.get(group, 0.0) + unit.weight
        heapq.heappush(self._groups.setdefault(group, []), (-self._paths[place], unit.name, place))
        if group in self._begun:
            self._shared[group] = None
        else:
            heapq.heappush(self._untouched, (-self._worth(group), self._groups[group][0][1], group))

    def take(self, current: str) -> tuple[str, int] | None:
        """Returns a group and its next unit: of the `current` group, else of the best one."""
        group = current if self._groups.get(current) else self._choose()
        if group is None:
            return None
        _, _, place = heapq.heappop(self._groups[group])
        self._work[group] -= self._units[place].weight
        if not self._groups[group]:
            self._shared.pop(group, None)
            del self._groups[group], self._work[group]
        return group, place

    def _worth(self, group: str) -> float:
        """The longest path through all of a group's work."""
        path, _, place = self._groups[group][0]
        return self._work[group] - path - self._units[place].weight

    def _choose(self) -> str | None:
        """Returns a group that no worker has begun, else the begun one with most work left, to
        share it.
        """
        while self._untouched:
            worth, _, group = heapq.heappop(self._untouched)
            # An entry is out of date where the group has grown since, or a worker has begun it.
            if group in self._begun or group not in self._groups or worth != -self._worth(group):
                continue
            self._begun.add(group)
            if len(self._groups[group]) > 1:
                self._shared[group] = None
            return group
        return max(self._shared, key=lambda group: (self._worth(group), group), default=None)


class UnitQueue:
    """Hands out units, named by their place in the list that it was made from. Workers pull, so the
    finish is even.

    It knows nothing of Ray; `QueueServer` holds it in an actor, and simulations use it as it is.

    **Arguments:**

    - `units`: all units that are to be made. What they need beside these is no concern of the
      queue.
    - `retries`: how often a unit is handed out again after its worker was lost; then it is given
      up.
    - `at_once`: units handed out together; None: one.
    - `devices`: whether some workers have a GPU and others have none. Then units that a GPU makes
      faster are for the first alone, and go first there.
    """

    def __init__(
        self, units: Sequence[QueuedUnit], retries: int = 0, at_once: int | None = None, devices: bool = False
    ):
        self._units, self._retries, self._at_once = units, retries, at_once or 1
        self._needs = Needs(units)
        self._waiting = list(self._needs.waiting)
        paths = self._needs.paths()
        self._pools = [_Pool(units, paths), _Pool(units, paths)]
        self._plain = [devices and not unit.for_device for unit in units]
        self._open = set(range(len(units)))
        self._lost: deque[int] = deque()
        self._later: deque[int] = deque()
        self._came_back: set[int] = set()
        self._current: dict[int, str] = {}
        self._in_flight: dict[int, list[int]] = {}
        self._losses: Counter[int] = Counter()
        self._faults: Counter[int] = Counter()
        for place, count in enumerate(self._waiting):
            if not count:
                self._pools[self._plain[place]].add(place)

    @property
    def over(self) -> bool:
        """Whether every unit is settled: made, failed, or broken by one that failed."""
        return not self._open

    def begin(self, worker: int) -> list[int]:
        """Says that `worker` was lost, or starts again. Returns the units that are given up, having
        been lost too often; they count as failed.
        """
        given_up = []
        batch = self._in_flight.pop(worker, [])
        for place in batch:
            # Of units handed out together nobody knows which took the worker down: they come again
            # one by one.
            self._losses[place] += len(batch) == 1
            if self._losses[place] > self._retries:
                given_up.append(place)
                self._settle(place, failed=True)
            else:
                self._lost.append(place)
        return given_up

    def take(self, worker: int, device: bool = True) -> list[int]:
        """Returns the next units for `worker`, none where none are ready.

        **Arguments:** `device`: whether it has a GPU, where that makes a difference.
        """
        held = self._in_flight.setdefault(worker, [])
        # Begun long ago: what is left to the end would make the end late.
        lost = self._first(self._lost, device)
        if lost is not None:
            held.append(lost)
            return [lost]
        taken: list[int] = []
        while len(taken) < self._at_once and (place := self._next(worker, device)) is not None:
            taken.append(place)
        held += taken
        return taken

    def settle(self, worker: int, place: int, failed: bool) -> None:
        """Says that `worker` has made a unit, or that the unit failed for a reason of its own."""
        if place in self._in_flight.get(worker, ()):
            self._in_flight[worker].remove(place)
            self._faults[worker] = 0
            self._settle(place, failed)

    def fault(self, worker: int) -> bool:
        """Counts a fault of `worker`'s surroundings, such as a store that is away; returns whether
        it is one too many in a row.
        """
        self._faults[worker] += 1
        return self._faults[worker] > self._retries

    def put_back(self, worker: int, place: int) -> bool:
        """Takes a unit back that `worker` cannot make now, for when there is nothing else to do.

        Returns whether it was put back before: then the worker should wait a little.
        """
        again = place in self._came_back
        self._came_back.add(place)
        if place in self._in_flight.get(worker, ()):
            self._in_flight[worker].remove(place)
            self._later.append(place)
        return again

    def _settle(self, place: int, failed: bool) -> None:
        self._open.discard(place)
        if failed and (broken := self._needs.broken_by(place)):
            self._open.difference_update(broken)
            return
        for other in self._needs.dependents[place]:
            self._waiting[other] -= 1
            if not self._waiting[other] and other in self._open:
                self._pools[self._plain[other]].add(other)

    def _next(self, worker: int, device: bool) -> int | None:
        for pool in self._pools[0 if device else 1 :]:
            found = pool.take(self._current.get(worker, ""))
            if found is not None:
                self._current[worker], place = found
                return place
        return self._first(self._later, device)

    def _first(self, places: deque[int], device: bool) -> int | None:
        """Takes the first unit out of `places` that this kind of worker makes."""
        place = next((place for place in places if device or self._plain[place]), None)
        if place is not None:
            places.remove(place)
        return place
