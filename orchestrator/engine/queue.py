"""Units waiting for workers: the largest first, those that share an input together, what a lost
worker had again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from ..plan.units import Unit


class UnitQueue:
    """Hands out units, named by their place in the list that it was made from. Workers pull, so the
    finish is even.

    It knows nothing of Ray; `QueueServer` holds it in an actor, and simulations use it as it is.

    **Arguments:**

    - `units`: units that do not depend on each other.
    - `retries`: how often a unit is handed out again after its worker was lost; then it is given
      up.
    - `at_once`: units handed out together; None: one.

    Units of one source model share its moments: a worker goes on with them before it begins with
    another model's.
    """

    def __init__(self, units: Sequence[Unit], retries: int, at_once: int | None = None):
        self._retries = retries
        self._at_once = at_once or 1
        self._costs = [unit.cost for unit in units]
        groups: dict[str, deque[int]] = {}
        for index in sorted(range(len(units)), key=lambda i: (-units[i].cost, units[i].name)):
            groups.setdefault(units[index].spec.shares or units[index].key, deque()).append(index)
        # Sorting is stable: of equal groups the one with the larger first unit leads.
        self._untouched = deque(sorted(groups.values(), key=lambda g: -sum(self._costs[i] for i in g)))
        self._begun: list[deque[int]] = []
        self._lost: deque[int] = deque()
        self._later: deque[int] = deque()
        self._current: dict[int, deque[int]] = {}
        self._in_flight: dict[int, list[int]] = {}
        self._losses: Counter[int] = Counter()
        self._faults: Counter[int] = Counter()

    def begin(self, worker: int) -> list[int]:
        """Says that `worker` starts, or starts again; returns the units that are given up, having
        been lost too often.
        """
        given_up = []
        batch = self._in_flight.pop(worker, [])
        for index in batch:
            # Of units handed out together nobody knows which took the worker down: they come again
            # one by one.
            self._losses[index] += len(batch) == 1
            if self._losses[index] > self._retries:
                given_up.append(index)
            else:
                self._lost.append(index)
        return given_up

    def take(self, worker: int) -> list[int]:
        """Returns the next units for `worker`, none where none are left; those it took before count
        as finished.
        """
        if self._in_flight.get(worker):
            self._faults[worker] = 0
        if self._lost:  # begun long ago: what is left to the end would make the end late
            self._in_flight[worker] = [self._lost.popleft()]
            return list(self._in_flight[worker])
        taken: list[int] = []
        while len(taken) < self._at_once:
            index = self._next(worker)
            if index is None:
                break
            taken.append(index)
        self._in_flight[worker] = list(taken)
        return taken

    def fault(self, worker: int) -> bool:
        """Counts a fault of `worker`'s surroundings, such as a store that is away; returns whether
        it is one too many in a row.
        """
        self._faults[worker] += 1
        return self._faults[worker] > self._retries

    def put_back(self, worker: int, index: int) -> None:
        """Takes a unit back that `worker` cannot make now, for when the others have been handed
        out.
        """
        self._in_flight[worker].remove(index)
        self._later.append(index)

    def _next(self, worker: int) -> int | None:
        group = self._current.get(worker)
        if not group:
            group = self._choose()
            if group is None:
                return self._later.popleft() if self._later else None
            self._current[worker] = group
        return group.popleft()

    def _choose(self) -> deque[int] | None:
        """Returns a group that no worker has begun, else the begun one with most work left, to
        share it.
        """
        if self._untouched:
            group = self._untouched.popleft()
            if len(group) > 1:  # a group of one is used up by being chosen
                self._begun.append(group)
            return group
        self._begun = [group for group in self._begun if group]
        return max(self._begun, key=lambda g: sum(self._costs[i] for i in g), default=None)


class QueueServer:
    """Holds the queue of the stage at work; the Ray actor that workers pull from, one for all
    stages of a run.
    """

    def load(self, units: Sequence[Unit], retries: int, at_once: int | None = None) -> None:
        """Puts a new queue in the place of the last stage's; arguments as those of `UnitQueue`."""
        self._queue = UnitQueue(units, retries, at_once)

    def begin(self, worker: int) -> list[int]:
        return self._queue.begin(worker)

    def take(self, worker: int) -> list[int]:
        return self._queue.take(worker)

    def fault(self, worker: int) -> bool:
        return self._queue.fault(worker)

    def put_back(self, worker: int, index: int) -> None:
        self._queue.put_back(worker, index)
