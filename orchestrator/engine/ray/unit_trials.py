"""Units as Ray Tune trials: a trial is a worker that pulls units from a queue, a step makes one or
several short ones.

Nothing is divided up beforehand. So workers that come late take part at once, and all finish
together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...base.errors import EnvironmentFault, disk_is_full
from ...plan.units import Outcome, Unit
from ...recipe.sections import Resources
from ...store import Store
from ...work.execute import POLL_SECONDS, Held, execute
from ..base import Listener, Starter
from ..queue import QueueServer
from .placement import Placement
from .trials import REPORT, TRIAL, Trial, Trials, cause
from .worker import WorkerSetup

STEP_SECONDS = 0.5
WORKER_LOSSES = 50
QUEUE_LOSSES = 3  # rounds without progress because the queue's process died
QUEUE_PATIENCE = (15.0, 30.0, 120.0)  # seconds until we give up a queue that does not answer
LOST = "its worker crashed: workers that were given this unit died; the others are not affected"


@dataclass(frozen=True)
class UnitsReport:
    """What a worker tells after a step: `outcomes` of units, the `next` one, and a `fault` that
    ends the run.
    """

    outcomes: tuple[Outcome, ...] = ()
    next: int | None = None
    fault: str = ""


class UnitTrial(Trial):
    """A worker that pulls units from the queue. The results are in the store; a step reports
    outcomes only.
    """

    def setup(
        self, config: dict[str, Any], *, setup: WorkerSetup | None = None, units: Sequence[Unit] = (), queue: Any = None
    ) -> None:
        """**Arguments:** `queue`: the actor that holds a `UnitQueue` of `units`."""
        assert setup is not None
        self._units = units
        self._queue = queue
        self._fault = ""
        self._raised: EnvironmentFault | None = None
        self._orphaned = False
        try:
            self._context = setup.context()
        except EnvironmentFault as fault:
            try:
                self._surroundings(int(config[TRIAL]), fault)
            except RayActorError:
                self._orphaned = True
        self.begin(int(config[TRIAL]))

    def begin(self, trial: int) -> None:
        self._worker = trial
        self._left: list[int] = []
        self._held: set[int] = set()
        try:
            self._given_up = ray.get(self._queue.begin.remote(trial))
        except RayActorError:  # if raised, Tune would start worker after worker for a lost queue
            self._orphaned = True

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        super().reset_config(new_config)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return True

    def _surroundings(self, worker: int, fault: EnvironmentFault) -> None:
        """Raises a fault of the storage, so that Tune tries again. The last of several, or a full
        disk, is reported.

        If we raised that too, Tune would meet the same full disk in each of the trials in turn.
        """
        if not (ray.get(self._queue.fault.remote(worker)) or disk_is_full(fault)):
            raise fault
        self._fault = str(fault)

    def step(self) -> dict[str, Any]:
        """Makes units for a while and reports. The first step only takes one, so that the driver
        knows it began.
        """
        told: list[Outcome] = []
        try:
            if not self._orphaned:
                return self._step(told)
        except RayActorError:
            pass  # the queue is lost: the driver makes another of what was not reported
        return {REPORT: UnitsReport(tuple(told)), "done": True}

    def _step(self, told: list[Outcome]) -> dict[str, Any]:
        if self._raised is not None:
            raised, self._raised = self._raised, None
            self._surroundings(self._worker, raised)
        told += [_lost(self._units[index]) for index in self._given_up]
        self._given_up = []
        # Every report costs Tune's loop several milliseconds: short units are reported together.
        until = time.monotonic() + STEP_SECONDS
        while self._left and not self._fault and (not told or time.monotonic() < until):
            index = self._left.pop(0)
            try:
                outcome = self._execute(index)
            except EnvironmentFault as fault:
                # The unit is not to blame. What was made so far is reported first.
                for one in (index, *self._left):
                    ray.get(self._queue.put_back.remote(self._worker, one))
                self._left, self._raised = [], fault
                break
            if outcome is not None:
                told.append(outcome)
            self._take()
        if self._raised is not None and not told:
            raised, self._raised = self._raised, None
            self._surroundings(self._worker, raised)
        if self._raised is not None or self._fault:
            return {REPORT: UnitsReport(tuple(told), fault=self._fault), "done": bool(self._fault)}
        self._take()
        following = self._left[0] if self._left else None
        return {REPORT: UnitsReport(tuple(told), following), "done": not self._left}

    def _take(self) -> None:
        if not self._left:
            self._left = ray.get(self._queue.take.remote(self._worker))

    def _execute(self, index: int) -> Outcome | None:
        """Makes a unit. Returns None, and gives the unit back to the queue, where another worker is
        making it.
        """
        try:
            return execute(self._units[index], self._context, wait=False)
        except Held:
            if index in self._held:
                time.sleep(POLL_SECONDS)  # it came round again: there is little else to do
            self._held.add(index)
            ray.get(self._queue.put_back.remote(self._worker, index))
            return None


def _lost(unit: Unit) -> Outcome:
    return Outcome(unit.key, unit.name, unit.kind, "failed", error=LOST)


class UnitReports:
    """Tells the driver's listener the outcome of each unit, once."""

    def __init__(self, units: Sequence[Unit], listener: Listener, starting: Starter | None, reported: set[str]):
        """**Arguments:** `reported`: filled with the keys of the units whose outcomes came."""
        self._units, self._listener, self._starting = units, listener, starting
        self._reported = reported
        self._wanted = {unit.key for unit in units}

    def reported(self, trial: int, report: UnitsReport, node: str) -> None:
        for outcome in report.outcomes:
            if outcome.key not in self._reported:
                self._reported.add(outcome.key)
                self._listener(outcome)
        if report.next is not None and self._starting is not None:
            self._starting(self._units[report.next], node)
        if report.fault:
            raise EnvironmentFault(report.fault)

    def ended(self, trial: int, problem: str) -> None:
        return None

    def knows(self, unit: Unit) -> bool:
        """Whether the outcome of `unit` was reported."""
        return unit.key in self._reported

    def complete(self) -> bool:
        """Whether every unit was reported. Workers that never got one need not start then."""
        return self._wanted <= self._reported


class UnitRunner:
    """Runs units in trials until every unit is reported; the queue that they pull from lives as
    long as the session.
    """

    def __init__(self, store: Store, resources: Resources, setup: WorkerSetup):
        self._store, self._resources, self._setup = store, resources, setup
        self._queue: Any = _new_queue()  # it starts while the driver looks what is missing

    def run(
        self,
        stage: str,
        units: Sequence[Unit],
        placement: Placement,
        listener: Listener,
        starting: Starter | None,
    ) -> tuple[set[str], str]:
        """Runs `units`; returns the keys of those that were reported, and the last problem of a
        worker.
        """
        reported: set[str] = set()
        problem = ""
        left = list(units)
        spare = QUEUE_LOSSES
        while left:
            reports = UnitReports(left, listener, starting, reported)
            told, queue_lives = self._round(stage, left, placement, reports)
            problem = told or problem
            before, left = left, [u for u in left if u.key not in reported and not self._store.has(u.key)]
            # Workers may all have died, or their queue: fresh ones go on while that gets anywhere.
            spare -= not queue_lives
            if len(left) == len(before) and (queue_lives or spare < 0):
                break
        return reported, problem

    def _round(self, stage: str, units: Sequence[Unit], placement: Placement, reports: UnitReports) -> tuple[str, bool]:
        """Runs one round of workers; returns the last line of a trial's error, and whether the
        queue still lives.
        """
        queue = self._loaded_queue(units)
        errors = Trials(
            stage,
            UnitTrial,
            {"setup": self._setup, "units": list(units), "queue": queue},
            placement.workers(stage, len(units)),
            placement.needs(stage),
            reports,
            # A worker may be lost again and again. The queue counts how often a unit may be.
            max_failures=WORKER_LOSSES,
            own_failures=False,
            concurrency=self._resources.concurrency or None,
            enough=reports.complete,
        ).run()
        lives = _answers(queue)
        environment = next((e for e in map(cause, errors) if isinstance(e, EnvironmentFault)), None)
        if environment is not None and any(not reports.knows(u) and not self._store.has(u.key) for u in units):
            raise EnvironmentFault(str(environment))
        return str(errors[0]).strip().splitlines()[-1] if errors else "", lives

    def _loaded_queue(self, units: Sequence[Unit]) -> Any:
        """Returns the actor that workers pull `units` from; a new one where there is none, or it
        does not answer.

        Ray needs a minute to notice that a process died while it started, and every worker would
        wait.
        """
        for patience in QUEUE_PATIENCE:
            if self._queue is None:
                self._queue = _new_queue()
            try:
                loading = self._queue.load.remote(
                    list(units), self._resources.max_retries, self._resources.units_per_trial
                )
                ray.get(loading, timeout=patience)
                return self._queue
            except (GetTimeoutError, RayActorError):
                ray.kill(self._queue)
                self._queue = None
        raise EnvironmentFault(
            "Ray starts no worker process on the driver's node; look at it with `orchestrator doctor`"
        )


def _new_queue() -> Any:
    # Beside the driver, with which it lives and dies: other nodes may leave.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote
    return remote(num_cpus=0, scheduling_strategy=here)(QueueServer).remote()


def _answers(queue: Any) -> bool:
    """Whether the queue's actor still lives; it is asked for nothing."""
    try:
        ray.get(queue.begin.remote(-1), timeout=30)
    except RayActorError:
        return False
    except GetTimeoutError:
        pass
    return True
