"""The queue that workers pull units from: order, sharing of inputs, losses, and the finish against the bound."""

from __future__ import annotations

import errno
import heapq
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orchestrator.base.errors import EnvironmentFault
from orchestrator.engine.queue import UnitQueue
from orchestrator.plan.specs import PlainSpec
from orchestrator.plan.units import Outcome, Unit


class Sharing(PlainSpec):
    """Work that shares an input."""

    @property
    def shares(self) -> str:
        return str(self.values.get("basis", ""))


def unit(index: int, cost: float = 1.0, basis: str | None = None) -> Unit:
    spec = {"i": index} if basis is None else {"i": index, "basis": basis}
    return Unit(Sharing("sleep", spec), f"unit-{index:04d}", cost=cost)


def drain(queue: UnitQueue, worker: int = 0) -> list[int]:
    taken = []
    while batch := queue.take(worker):
        taken += batch
    return taken


def test_largest_first_and_each_once() -> None:
    costs = [3.0, 9.0, 1.0, 5.0]
    assert drain(UnitQueue([unit(i, c) for i, c in enumerate(costs)], retries=0)) == [1, 3, 0, 2]


def test_units_that_share_moments_go_to_one_worker_until_the_end() -> None:
    units = [unit(i, basis=f"basis-{i % 3}") for i in range(12)]
    queue = UnitQueue(units, retries=0)
    by_worker: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for _ in range(4):
        for worker, seen in by_worker.items():
            seen += [units[i].spec.shares for i in queue.take(worker)]
    assert all(len(set(seen)) == 1 for seen in by_worker.values())
    assert queue.take(0) == []


def test_where_models_are_fewer_than_workers_their_units_are_shared() -> None:
    queue = UnitQueue([unit(i, basis="one") for i in range(8)], retries=0)
    taken = [queue.take(worker) for worker in range(8)]
    assert sorted(i for batch in taken for i in batch) == list(range(8))


def test_what_a_lost_worker_had_comes_again_and_is_given_up_in_the_end() -> None:
    queue = UnitQueue([unit(0, cost=9.0), unit(1)], retries=2)
    for _ in range(2):
        assert queue.take(7) == [0]
        assert queue.begin(7) == []
    assert queue.take(7) == [0]
    assert queue.begin(7) == [0], "the third loss is one too many"
    assert drain(queue) == [1]


def test_finished_units_are_not_lost_with_their_worker() -> None:
    queue = UnitQueue([unit(i) for i in range(3)], retries=5)
    first, second = queue.take(0), queue.take(0)
    assert queue.begin(0) == []
    assert sorted(drain(queue)) == sorted({0, 1, 2} - set(first))
    assert second[0] not in first


def test_a_unit_put_back_comes_last() -> None:
    queue = UnitQueue([unit(0, cost=9.0), unit(1), unit(2)], retries=0)
    assert queue.take(0) == [0]
    queue.put_back(0, 0)
    assert queue.begin(0) == [], "it is in flight no longer"
    assert drain(queue) == [1, 2, 0]


def test_several_at_once() -> None:
    queue = UnitQueue([unit(i) for i in range(5)], retries=0, at_once=2)
    assert [len(queue.take(0)) for _ in range(4)] == [2, 2, 1, 0]


def test_of_units_taken_together_only_the_culprit_is_given_up() -> None:
    """Nobody knows which of them took the worker down: they come again one by one, and only a loss alone counts."""
    queue = UnitQueue([unit(i, cost=9.0 - i) for i in range(4)], retries=1, at_once=4)
    finished: set[int] = set()
    given_up: list[int] = []
    worker = 0
    for _ in range(40):
        taken = queue.take(worker)
        if not taken:
            break
        if 1 in taken:  # the worker dies of unit 1
            given_up += queue.begin(worker)
        else:
            finished |= set(taken)
    assert given_up == [1]
    assert finished == {0, 2, 3}


def test_faults_of_the_surroundings_are_no_losses_and_end_in_a_row_only() -> None:
    queue = UnitQueue([unit(0), unit(1)], retries=2)
    for _ in range(2):
        (index,) = queue.take(0)
        queue.put_back(0, index)
        assert not queue.fault(0)
        assert queue.begin(0) == []
    (index,) = queue.take(0)
    assert queue.take(0) != [index], "one unit was finished: the row of faults is broken"
    assert not queue.fault(0)
    assert not queue.fault(0)
    assert queue.fault(0), "three in a row are one too many"


@pytest.mark.parametrize("slots", [1, 7, 64])
def test_the_finish_is_even(slots: int) -> None:
    """List scheduling, largest first, ends within 4/3 of the optimum (Graham 1969), and near 1 for many units."""
    costs = np.random.default_rng(slots).lognormal(0.0, 0.5, 40 * slots)
    queue = UnitQueue([unit(i, float(c)) for i, c in enumerate(costs)], retries=0)
    free = [(0.0, worker) for worker in range(slots)]
    end, seen = 0.0, Counter[int]()
    while free:
        now, worker = heapq.heappop(free)
        end = max(end, now)
        for index in queue.take(worker):
            seen[index] += 1
            heapq.heappush(free, (now + costs[index], worker))
    assert set(seen.values()) == {1}
    assert len(seen) == len(costs)
    assert end < 1.02 * max(costs.sum() / slots, costs.max())


def test_what_the_driver_cannot_write_ends_the_run_as_what_it_is() -> None:
    """Tune would turn an error of a callback into one of its own, with a traceback for a text."""
    from orchestrator.engine.ray.trials import REPORT, TRIAL, Trial, Trials, _Observer
    from orchestrator.engine.ray.unit_trials import UnitReports, UnitsReport

    def listen(outcome: Outcome) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    units = [Unit(PlainSpec("sleep", {"seconds": 0.0}), "sleep")]
    report = UnitsReport((Outcome(units[0].key, "sleep", "sleep", "done"),))
    reports = UnitReports(units, listen, None, set())
    observer = _Observer(Trials("train", Trial, {}, 1, {"cpu": 1}, reports, max_failures=0))
    assert not observer.stop_all()
    observer.on_trial_result(1, [], SimpleNamespace(config={TRIAL: 0}), {REPORT: report})
    assert [type(fault) for fault in observer.faults] == [OSError]
    assert observer.stop_all()


class Failing:
    """A Tune trial that failed with `error`, as a callback sees it."""

    def __init__(self, error: Exception):
        self.config = {"trial": 0}
        self._error = error

    def get_pickled_error(self) -> Exception:
        return self._error


def of_a_step(error: Exception) -> Exception:
    from ray.exceptions import RayTaskError

    return RayTaskError("step", f"Traceback\n{type(error).__name__}: {error}", error)


def of_a_constructor(error: Exception) -> Exception:
    from ray.exceptions import ActorDiedError

    return ActorDiedError(of_a_step(error))  # type: ignore[arg-type]


def lost() -> Exception:
    from ray.exceptions import RayActorError

    return RayActorError(error_msg="The actor died unexpectedly before finishing this task.\n\tpid: 7")


@pytest.mark.parametrize(
    ("own_failures", "errors", "ends"),
    [
        (False, [of_a_step(KeyError("a")), of_a_step(KeyError("a"))], "KeyError: 'a'|'a'"),
        (False, [of_a_step(KeyError("a")), of_a_step(KeyError("b"))], ""),
        (True, [of_a_step(KeyError("a")), of_a_step(KeyError("a"))], ""),
        (
            True,
            [of_a_constructor(ImportError("attack")), of_a_constructor(ImportError("attack"))],
            "ImportError: attack",
        ),
        (False, [lost(), lost(), lost()], ""),
        (False, [of_a_step(EnvironmentFault("away")), of_a_step(EnvironmentFault("away"))], ""),
        (False, [of_a_constructor(EnvironmentFault("away")), of_a_constructor(EnvironmentFault("away"))], ""),
    ],
)
def test_workers_that_fail_twice_alike_end_the_stage_with_their_reason(
    own_failures: bool, errors: list[Exception], ends: str
) -> None:
    """A worker that is merely lost, or whose storage is away, is the queue's to count."""
    from orchestrator.engine.ray.trials import Trial, Trials, _Observer

    listener: Any = SimpleNamespace()
    trials: Trials[Any] = Trials("train", Trial, {}, 1, {"cpu": 1}, listener, max_failures=9, own_failures=own_failures)
    observer = _Observer(trials)
    for error in errors:
        assert not observer.stop_all()
        observer.on_trial_recover(1, [], Failing(error))
    assert observer.stop_all() is bool(ends)
    if ends:
        with pytest.raises(EnvironmentFault, match=f"workers fail in the same way again and again: ({ends})$"):
            raise observer.faults[0]
