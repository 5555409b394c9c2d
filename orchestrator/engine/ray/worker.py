"""The Ray Tune trainable: a trial is a worker that pulls units from a queue, a step is one of them, or several short ones.

Workers that come late take part at once, and a finish is even, since nothing is divided up beforehand.
"""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.exceptions import RayActorError

from ...base.errors import EnvironmentFault, disk_is_full
from ...plan.data import ExperimentData
from ...plan.units import Outcome, Unit
from ...store import open_store
from ...work.context import Context
from ...work.execute import POLL_SECONDS, Held, execute
from ..base import Listener, Starter

STEP_SECONDS = 0.5
LOST = "lost with its worker: workers that were given this unit died; the others are not affected"


class UnitTrainable(tune.Trainable):
    """A worker that pulls units from the queue. Results live in the store; a step reports only what became of them."""

    def setup(
        self,
        config: dict[str, Any],
        *,
        store_uri: str = "",
        shared: bytes = b"",
        units: Sequence[Unit] = (),
        queue: Any = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """**Arguments:** `queue`: the actor that holds a `UnitQueue` of `units`."""
        self._units = units
        self._queue = queue
        self._fault = ""
        self._raised: EnvironmentFault | None = None
        self._orphaned = False
        try:
            try:
                self._context = worker_context(store_uri, shared, options or {})
            except EnvironmentFault as fault:
                self._surroundings(int(config["worker"]), fault)
            self._begin(config)
        except RayActorError:  # raising it, Tune would start worker after worker for a queue that is no more
            self._orphaned = True

    def _surroundings(self, worker: int, fault: EnvironmentFault) -> None:
        """Raises a fault of the storage, so that Tune tries again; the last of several in a row, or a full disk, is told instead.

        Raising that would have Tune try again in each of the trials in turn what meets the same full disk.
        """
        if not (ray.get(self._queue.fault.remote(worker)) or disk_is_full(fault)):
            raise fault
        self._fault = str(fault)

    def _begin(self, config: dict[str, Any]) -> None:
        self._worker = int(config["worker"])
        self._given_up = ray.get(self._queue.begin.remote(self._worker))
        self._left: list[int] = []
        self._held: set[int] = set()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        # Without this method an actor cannot be reused: Tune would wait for ever.
        try:
            self._begin(new_config)
        except RayActorError:
            self._orphaned = True
            return True
        if self._context.device != "cpu":
            import torch

            torch.cuda.empty_cache()
        return True

    def step(self) -> dict[str, Any]:
        """Executes units for a while; says what became of them and which is `next`. The first step only takes one."""
        told: list[dict[str, Any]] = []
        try:
            if not self._orphaned:
                return self._step(told)
        except RayActorError:
            pass  # the queue is lost: the driver makes another, of what is not heard of
        return {"outcomes": told, "next": None, "fault": "", "done": True}

    def _step(self, told: list[dict[str, Any]]) -> dict[str, Any]:
        if self._raised is not None:
            raised, self._raised = self._raised, None
            self._surroundings(self._worker, raised)
        told += [dataclasses.asdict(_lost(self._units[index])) for index in self._given_up]
        self._given_up = []
        # Every report costs Tune's loop several milliseconds: short units are told together.
        until = time.monotonic() + STEP_SECONDS
        while self._left and not self._fault and (not told or time.monotonic() < until):
            index = self._left.pop(0)
            try:
                outcome = self._execute(index)
            except EnvironmentFault as fault:
                # No loss of the unit's. What was told so far goes first.
                for one in (index, *self._left):
                    ray.get(self._queue.put_back.remote(self._worker, one))
                self._left, self._raised = [], fault
                break
            if outcome is not None:
                told.append(dataclasses.asdict(outcome))
            self._take()
        if self._raised is not None and not told:
            raised, self._raised = self._raised, None
            self._surroundings(self._worker, raised)
        if self._raised is not None or self._fault:
            return {"outcomes": told, "next": None, "fault": self._fault, "done": bool(self._fault)}
        self._take()
        following = self._left[0] if self._left else None
        return {"outcomes": told, "next": following, "fault": "", "done": not self._left}

    def _take(self) -> None:
        if not self._left:
            self._left = ray.get(self._queue.take.remote(self._worker))

    def _execute(self, index: int) -> Outcome | None:
        """Executes a unit; gives it back to the queue, and returns None, where a worker elsewhere is making it."""
        try:
            return execute(self._units[index], self._context, wait=False)
        except Held:
            if index in self._held:
                time.sleep(POLL_SECONDS)  # it came round again: there is little else to do
            self._held.add(index)
            ray.get(self._queue.put_back.remote(self._worker, index))
            return None

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None  # the store is the checkpoint

    def load_checkpoint(self, checkpoint: Any) -> None:
        return None


class OutcomeCallback(tune.Callback):
    """Tells the driver's listener what became of each unit. Tune pickles callbacks; the listener stays out of that."""

    def __init__(
        self,
        listener: Listener,
        reported: set[str],
        units: Sequence[Unit],
        faults: list[Exception],
        starting: Starter | None = None,
    ):
        """**Arguments:** `reported`, `faults`: filled with the keys of units, and with what ends the run."""
        self._listener: Listener | None = listener
        self._reported = reported
        self._units = units
        self._faults = faults
        self._starting = starting

    def __getstate__(self) -> dict[str, Any]:
        return {"_listener": None, "_reported": set(), "_units": [], "_starting": None, "_faults": []}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        try:
            for outcome in map(outcome_from, result["outcomes"]):
                if outcome.key not in self._reported and self._listener is not None:
                    self._reported.add(outcome.key)
                    self._listener(outcome)
            if result["next"] is not None and self._starting is not None:
                self._starting(self._units[result["next"]], str(result.get("node_ip", "")))
        except Exception as error:
            # Raised here it would reach the user as one of Tune's, with its traceback for a text.
            self._faults.append(error)
        if result["fault"]:
            self._faults.append(EnvironmentFault(result["fault"]))


def _lost(unit: Unit) -> Outcome:
    return Outcome(unit.key, unit.name, unit.kind, "failed", error=LOST)


class UnitsReported(tune.Stopper):
    """Ends the trials once the driver has heard of every unit, since workers that never got one need not start; or of a fault."""

    def __init__(self, reported: set[str], total: int, faults: list[Exception]):
        self._reported, self._total, self._faults = reported, total, faults

    def __getstate__(self) -> dict[str, Any]:
        return {"_reported": set(), "_total": self._total, "_faults": []}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return len(self._reported) >= self._total or bool(self._faults)


def worker_context(store_uri: str, shared: bytes, options: dict[str, Any]) -> Context:
    """Returns this worker's context: data as read-only views of the object store, one device, a fixed number of threads.

    **Arguments:** `shared`: the pickled reference of the data's arrays in the object store. As bytes, since Ray warns of
    references among the arguments of an actor that it may start again; the driver keeps what they name alive.
    """
    import torch

    threads = int(options["threads"])
    torch.set_num_threads(threads)
    device = "cuda" if options.get("gpus") and torch.cuda.is_available() else "cpu"
    return Context(
        open_store(store_uri),
        ExperimentData.from_arrays(ray.get(ray.cloudpickle.loads(shared))),
        device=device,
        threads=threads,
        allow_factory=options.get("allow_factory", False),
        where=f"{socket.gethostname()} {ray.util.get_node_ip_address()}",
    )


class OutputsActor:
    """A Ray Data actor: holds the data and computes the forget-set outputs of one model a row."""

    def __init__(self, store_uri: str, shared: bytes, units: bytes, options: dict[str, Any]):
        """**Arguments:** `shared`, `units`: pickled references of the data's arrays and of the units in the object store."""
        self._units = ray.get(ray.cloudpickle.loads(units))
        self._context = worker_context(store_uri, shared, options)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        import json

        outcomes = [dataclasses.asdict(execute(self._units[int(i)], self._context)) for i in batch["index"]]
        return {"outcome": np.asarray([json.dumps(outcome) for outcome in outcomes])}


def outcome_from(document: dict[str, Any]) -> Outcome:
    """Returns the outcome that a worker reported."""
    return Outcome(**document)
