"""The queue that workers pull units from: readiness, order, sharing of inputs, losses, the finish against the bound."""

from __future__ import annotations

import errno
import heapq
import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orchestrator.base.errors import EnvironmentFault
from orchestrator.engine.base import Ledger, queued
from orchestrator.engine.queue import UnitQueue
from orchestrator.plan.specs import PlainSpec
from orchestrator.plan.units import Outcome, Unit


class Sharing(PlainSpec):
    """Work that shares an input."""

    @property
    def shares(self) -> str:
        return str(self.values.get("basis", ""))


def unit(
    index: int, cost: float = 1.0, basis: str | None = None, needs: tuple[Unit, ...] = (), kind: str = "sleep"
) -> Unit:
    spec = {"i": index} if basis is None else {"i": index, "basis": basis}
    return Unit(Sharing(kind, spec), f"unit-{index:04d}", needs=needs, cost=cost)


def drain(queue: UnitQueue, worker: int = 0) -> list[int]:
    """Makes all that is ready, and returns it in order."""
    taken = []
    while batch := queue.take(worker):
        taken += batch
        for place in batch:
            queue.settle(worker, place, failed=False)
    return taken


def some_graph(generator: random.Random) -> list[Unit]:
    """Units of any shape in any order. Some needs are hidden, as a basis is, which is no unit of the run."""
    units: list[Unit] = []
    for i in range(generator.randint(1, 12)):
        parents = tuple(generator.sample(units, min(len(units), generator.randint(0, 3))))
        if parents and generator.random() < 0.5:
            parents = (unit(100 + i, needs=parents),)
        basis, kind = generator.choice([None, "one", "two"]), generator.choice(["train", "attack"])
        units.append(unit(i, generator.uniform(0.1, 9), basis, parents, kind))
    generator.shuffle(units)
    return units


@pytest.mark.parametrize("seed", range(8))
def test_a_unit_is_handed_out_once_when_all_that_it_needs_is_settled(seed: int) -> None:
    """Workers die and units fail at random moments. Worker 2 has no GPU."""
    generator = random.Random(seed)
    for _ in range(25):
        units = some_graph(generator)
        above = [{i for i, u in enumerate(units) if u.key in one.ancestors()} for one in units]
        models = {i for i, u in enumerate(units) if u.kind == "train"}
        queue = UnitQueue(queued(units), retries=99, at_once=generator.randint(1, 2), devices=generator.random() < 0.5)
        failed: dict[int, bool] = {}  # of what is settled
        flying: dict[int, list[int]] = {0: [], 1: [], 2: []}
        while not queue.over:
            for worker in [worker for worker, batch in flying.items() if not batch]:
                batch = queue.take(worker, device=worker < 2)
                for place in batch:
                    assert place not in failed
                    assert all(place not in other for other in flying.values())
                    assert not any(failed.get(need) for need in above[place] & models)
                    assert above[place] <= set(failed), "it came too early"
                flying[worker] = batch
            busy = [worker for worker, batch in flying.items() if batch]
            assert busy, "nothing is ready, nothing is being made, and units are left"
            worker = generator.choice(busy)
            if generator.random() < 0.2:
                assert queue.begin(worker) == []
            else:
                for place in flying[worker]:
                    failed[place] = generator.random() < 0.25
                    queue.settle(worker, place, failed[place])
            flying[worker] = []
        broken = {i for i in range(len(units)) if any(failed.get(a) for a in above[i] & models)}
        assert set(failed) == set(range(len(units))) - broken


def test_the_longest_path_goes_first() -> None:
    short, long = unit(0, 5.0), unit(1, 1.0)
    middle = unit(2, 2.0, needs=(long,))
    units = [short, long, middle, unit(3, 3.0, needs=(middle,))]
    assert drain(UnitQueue(queued(units))) == [1, 0, 2, 3], "6 in a chain, then 5 alone, then the rest of the chain"


def test_a_gpu_is_for_units_that_need_it_first() -> None:
    units = [unit(0, 99.0, kind="attack"), unit(1, kind="train"), unit(2, kind="outputs")]
    queue = UnitQueue(queued(units), retries=1, devices=True)
    assert queue.take(1, device=False) == [0], "what needs no GPU is all that a worker without one is given"
    assert queue.take(1, device=False) == []
    assert [queue.take(0), queue.take(0)] == [[1], [2]]
    assert queue.begin(1) == []
    assert queue.take(0) == [0], "a worker with a GPU takes all there is"


def test_largest_first_and_each_once() -> None:
    costs = [3.0, 9.0, 1.0, 5.0]
    assert drain(UnitQueue(queued([unit(i, c) for i, c in enumerate(costs)]), retries=0)) == [1, 3, 0, 2]


def test_units_that_share_moments_go_to_one_worker_until_the_end() -> None:
    units = [unit(i, basis=f"basis-{i % 3}") for i in range(12)]
    queue = UnitQueue(queued(units), retries=0)
    by_worker: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for _ in range(4):
        for worker, seen in by_worker.items():
            seen += [units[i].spec.shares for i in queue.take(worker)]
    assert all(len(set(seen)) == 1 for seen in by_worker.values())
    assert queue.take(0) == []


def test_where_models_are_fewer_than_workers_their_units_are_shared() -> None:
    queue = UnitQueue(queued([unit(i, basis="one") for i in range(8)]), retries=0)
    taken = [queue.take(worker) for worker in range(8)]
    assert sorted(i for batch in taken for i in batch) == list(range(8))


def test_what_a_lost_worker_had_comes_again_and_is_given_up_in_the_end() -> None:
    queue = UnitQueue(queued([unit(0, cost=9.0), unit(1)]), retries=2)
    for _ in range(2):
        assert queue.take(7) == [0]
        assert queue.begin(7) == []
    assert queue.take(7) == [0]
    assert queue.begin(7) == [0], "the third loss is one too many"
    assert drain(queue) == [1]
    assert queue.over


def test_finished_units_are_not_lost_with_their_worker() -> None:
    queue = UnitQueue(queued([unit(i) for i in range(3)]), retries=5)
    first = queue.take(0)
    queue.settle(0, first[0], failed=False)
    second = queue.take(0)
    assert queue.begin(0) == []
    assert sorted(drain(queue)) == sorted({0, 1, 2} - set(first))
    assert second[0] not in first


def test_a_unit_put_back_comes_last() -> None:
    queue = UnitQueue(queued([unit(0, cost=9.0), unit(1), unit(2)]), retries=0)
    assert queue.take(0) == [0]
    assert not queue.put_back(0, 0)
    assert queue.begin(0) == [], "it is in flight no longer"
    assert [queue.take(0), queue.take(0), queue.take(0)] == [[1], [2], [0]]
    assert queue.put_back(0, 0), "it came round again: its worker waits a little"


def test_several_at_once() -> None:
    queue = UnitQueue(queued([unit(i) for i in range(5)]), retries=0, at_once=2)
    assert [len(queue.take(0)) for _ in range(4)] == [2, 2, 1, 0]


def test_of_units_taken_together_only_the_culprit_is_given_up() -> None:
    """Nobody knows which of them took the worker down: they come again one by one, and only a loss alone counts."""
    queue = UnitQueue(queued([unit(i, cost=9.0 - i) for i in range(4)]), retries=1, at_once=4)
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
            for place in taken:
                queue.settle(worker, place, failed=False)
    assert given_up == [1]
    assert finished == {0, 2, 3}


def test_faults_of_the_surroundings_are_no_losses_and_end_in_a_row_only() -> None:
    queue = UnitQueue(queued([unit(0), unit(1)]), retries=2)
    for _ in range(2):
        (index,) = queue.take(0)
        queue.put_back(0, index)
        assert not queue.fault(0)
        assert queue.begin(0) == []
    (index,) = queue.take(0)
    queue.settle(0, index, failed=False)  # the row of faults is broken
    assert not queue.fault(0)
    assert not queue.fault(0)
    assert queue.fault(0), "three in a row are one too many"


@pytest.mark.parametrize("slots", [1, 7, 64])
def test_the_finish_is_even(slots: int) -> None:
    """List scheduling, largest first, ends within 4/3 of the optimum (Graham 1969), and near 1 for many units."""
    costs = np.random.default_rng(slots).lognormal(0.0, 0.5, 40 * slots)
    queue = UnitQueue(queued([unit(i, float(c)) for i, c in enumerate(costs)]), retries=0)
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

    class Full:
        def ended(self, unit: Unit, outcome: Outcome) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    units = [Unit(PlainSpec("sleep", {"seconds": 0.0}), "sleep")]
    report = UnitsReport((Outcome(units[0].key, "sleep", "sleep", "done"),))
    listener: Any = Full()
    reports = UnitReports(units, Ledger(units, listener), None)
    observer = _Observer(Trials("train", Trial, {}, 1, lambda trial: {"cpu": 1}, reports, max_failures=0))
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

    lost: list[int] = []
    listener: Any = SimpleNamespace(lost=lost.append)
    needs = {"cpu": 1.0}
    trials: Trials[Any] = Trials(
        "train", Trial, {}, 1, lambda trial: needs, listener, max_failures=9, own_failures=own_failures
    )
    observer = _Observer(trials)
    for error in errors:
        assert not observer.stop_all()
        observer.on_trial_recover(1, [], Failing(error))
    assert observer.stop_all() is bool(ends)
    assert lost == [0] * len(errors), "what the worker had is free for others, before another one is found"
    if ends:
        with pytest.raises(EnvironmentFault, match=f"workers fail in the same way again and again: ({ends})$"):
            raise observer.faults[0]
