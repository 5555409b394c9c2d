"""Units as Ray Tune trials: a trial is a worker that pulls units of every kind from one queue. It
lives as long as there are any.

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
from ..base import Ledger, queued
from .placement import Placement
from .queue_server import QueueServer
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
        self,
        config: dict[str, Any],
        *,
        setup: WorkerSetup | None = None,
        units: Sequence[Unit] = (),
        queue: Any = None,
        devices: int | None = None,
    ) -> None:
        """**Arguments:**

        - `queue`: the actor that holds a `UnitQueue` of `units`.
        - `devices`: how many trials, the first ones, have a GPU where others have none; None: all
          are alike.
        """
        assert setup is not None
        self._units, self._queue, self._devices = units, queue, devices
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
        self._device = self._devices is None or trial < self._devices
        self._left: list[int] = []
        self._made: list[tuple[int, bool]] = []
        self._over = False
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
        told += [_lost(self._units[place]) for place in self._given_up]
        self._given_up = []
        # Every report costs Tune's loop several milliseconds: short units are reported together.
        until = time.monotonic() + STEP_SECONDS
        while self._left and not self._fault and (not told or time.monotonic() < until):
            place = self._left.pop(0)
            try:
                outcome = self._execute(place)
            except EnvironmentFault as fault:
                # The unit is not to blame. What was made so far is reported first.
                for one in (place, *self._left):
                    ray.get(self._queue.put_back.remote(self._worker, one))
                self._left, self._raised = [], fault
                break
            if outcome is not None:
                told.append(outcome)
                self._made.append((place, outcome.failed))
            self._take()
        if self._raised is not None and not told:
            raised, self._raised = self._raised, None
            self._surroundings(self._worker, raised)
        if self._raised is not None or self._fault:
            return {REPORT: UnitsReport(tuple(told), fault=self._fault), "done": bool(self._fault)}
        self._take(0.0 if told else STEP_SECONDS)
        following = self._left[0] if self._left else None
        return {REPORT: UnitsReport(tuple(told), following), "done": self._over}

    def _take(self, wait: float = 0.0) -> None:
        """Takes the next units where this worker has none left."""
        if not self._left:
            made, self._made = self._made, []
            taken = ray.get(self._queue.take.remote(self._worker, made, self._device, wait))
            self._left, self._over = taken or [], taken is None

    def _execute(self, place: int) -> Outcome | None:
        """Makes a unit. Returns None, and gives the unit back to the queue, where another worker is
        making it.
        """
        try:
            return execute(self._units[place], self._context, wait=False)
        except Held:
            if ray.get(self._queue.put_back.remote(self._worker, place)):
                time.sleep(POLL_SECONDS)  # it came round again: there is little else to do
            return None


def _lost(unit: Unit) -> Outcome:
    return Outcome(unit.key, unit.name, unit.kind, "failed", error=LOST)


class UnitReports:
    """Passes on what workers report of some of a run's units."""

    def __init__(self, units: Sequence[Unit], ledger: Ledger, queue: Any):
        self._units, self._ledger, self._queue = units, ledger, queue
        self._left = list(units)

    def reported(self, trial: int, report: UnitsReport, node: str) -> None:
        for outcome in report.outcomes:
            self._ledger.settle(outcome)
        if report.next is not None:
            self._ledger.listener.begun(self._units[report.next], node)
        if report.fault:
            raise EnvironmentFault(report.fault)

    def lost(self, trial: int) -> None:
        """Gives what a lost worker had to others. A new one in its place may find no room."""
        try:
            given_up = ray.get(self._queue.begin.remote(trial))
        except RayActorError:
            return
        for place in given_up:
            self._ledger.settle(_lost(self._units[place]))

    def ended(self, trial: int, problem: str) -> None:
        if problem:
            self.lost(trial)

    def complete(self) -> bool:
        """Whether every unit is settled. Workers that never got one need not start then."""
        if self._left and not self._ledger.left(self._left[-1:]):
            self._left = self._ledger.left(self._left)
        return not self._left


class UnitRunner:
    """Runs units in trials until every unit is settled; the queue that they pull from lives as
    long as the session.
    """

    def __init__(self, store: Store, resources: Resources, setup: WorkerSetup):
        self._store, self._resources, self._setup = store, resources, setup
        self._queue: Any = _new_queue()  # it starts while the driver looks what is missing

    def run(self, units: Sequence[Unit], placement: Placement, ledger: Ledger) -> str:
        """Runs `units` as far as that gets; returns the last problem of a worker."""
        problem = ""
        left = ledger.left(units)
        spare = QUEUE_LOSSES
        while left:
            told, queue_lives = self._round(left, placement, ledger)
            problem = told or problem
            before, left = left, [u for u in ledger.left(left) if not self._store.has(u.key)]
            # Workers may all have died, or their queue: fresh ones go on while that gets anywhere.
            spare -= not queue_lives
            if len(left) == len(before) and (queue_lives or spare < 0):
                break
        return problem

    def _round(self, units: Sequence[Unit], placement: Placement, ledger: Ledger) -> tuple[str, bool]:
        """Runs one round of workers; returns the last line of a trial's error, and whether the
        queue still lives.
        """
        devices, others = placement.pools(units)
        queue = self._loaded_queue(units, others > 0)
        reports = UnitReports(units, ledger, queue)
        errors = Trials(
            "units",
            UnitTrial,
            {
                "setup": self._setup,
                "units": list(units),
                "queue": queue,
                "devices": devices if others else None,
            },
            devices + others,
            lambda trial: placement.needs("train" if trial < devices else "attack"),
            reports,
            # A worker may be lost again and again. The queue counts how often a unit may be.
            max_failures=WORKER_LOSSES,
            own_failures=False,
            concurrency=self._resources.concurrency or None,
            enough=reports.complete,
        ).run()
        lives = _answers(queue)
        environment = next((e for e in map(cause, errors) if isinstance(e, EnvironmentFault)), None)
        if environment is not None and any(not self._store.has(u.key) for u in ledger.left(units)):
            raise EnvironmentFault(str(environment))
        return str(errors[0]).strip().splitlines()[-1] if errors else "", lives

    def _loaded_queue(self, units: Sequence[Unit], devices: bool) -> Any:
        """Returns the actor that workers pull `units` from; a new one where there is none, or it
        does not answer.

        Ray needs a minute to notice that a process died while it started, and every worker would
        wait.
        """
        waiting = queued(units)
        for patience in QUEUE_PATIENCE:
            if self._queue is None:
                self._queue = _new_queue()
            try:
                loading = self._queue.load.remote(
                    waiting, self._resources.max_retries, self._resources.units_per_trial, devices
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
