"""The Ray Tune trainable: a trial is a chunk of units, a step is one of them. Actors are reused from trial to trial."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from ray import tune

from ..data import ExperimentData
from ..errors import EnvironmentFault, disk_is_full
from ..execute import Context, execute
from ..store import open_store
from ..units import Outcome, Unit
from .base import Listener


class UnitTrainable(tune.Trainable):
    """Executes the units of one chunk, one a step. Results live in the store; a step reports only what became of a unit."""

    def setup(
        self,
        config: dict[str, Any],
        *,
        store_uri: str = "",
        arrays: dict[str, np.ndarray] | None = None,
        chunks: list[list[Unit]] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self._context = worker_context(store_uri, arrays or {}, options or {})
        self._chunks = chunks or []
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        self._waiting = list(self._chunks[config["chunk"]])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        # Without this method an actor cannot be reused: Tune would wait for ever.
        self._begin(new_config)
        if self._context.device != "cpu":
            import torch

            torch.cuda.empty_cache()
        return True

    def step(self) -> dict[str, Any]:
        try:
            outcome = execute(self._waiting.pop(0), self._context)
        except EnvironmentFault as fault:
            if not disk_is_full(fault):
                raise  # storage that is away for a moment is worth trying again
            # Told, not raised: Tune would try again, each of the trials in turn, what meets the same full disk.
            return {"fault": str(fault), "done": True}
        return {"outcome": dataclasses.asdict(outcome), "done": not self._waiting}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None  # the store is the checkpoint

    def load_checkpoint(self, checkpoint: Any) -> None:
        return None


class OutcomeCallback(tune.Callback):
    """Tells the driver's listener what became of each unit. Tune pickles callbacks; the listener stays out of that."""

    def __init__(self, listener: Listener, reported: set[str]):
        self._listener: Listener | None = listener
        self._reported = reported

    def __getstate__(self) -> dict[str, Any]:
        return {"_listener": None, "_reported": set()}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if "fault" in result:
            raise EnvironmentFault(result["fault"])  # ends the whole of Tune's run
        outcome = outcome_from(result["outcome"])
        if outcome.key not in self._reported and self._listener is not None:
            self._reported.add(outcome.key)
            self._listener(outcome)


def worker_context(store_uri: str, arrays: dict[str, np.ndarray], options: dict[str, Any]) -> Context:
    """Returns this worker's context: data as read-only views of the object store, one device, a fixed number of threads."""
    import torch

    threads = int(options["threads"])
    torch.set_num_threads(threads)
    device = "cuda" if options.get("gpus") and torch.cuda.is_available() else "cpu"
    return Context(
        open_store(store_uri),
        ExperimentData.from_arrays(arrays),
        device=device,
        threads=threads,
        allow_factory=options.get("allow_factory", False),
    )


class OutputsActor:
    """A Ray Data actor: holds the data and computes the forget-set outputs of one model a row."""

    def __init__(self, store_uri: str, shared: bytes, options: dict[str, Any]):
        """**Arguments:** `shared`: pickled references of the data's arrays and of the units in the object store."""
        import ray

        arrays, self._units = ray.get(ray.cloudpickle.loads(shared))
        self._context = worker_context(store_uri, arrays, options)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        import json

        outcomes = [dataclasses.asdict(execute(self._units[int(i)], self._context)) for i in batch["index"]]
        return {"outcome": np.asarray([json.dumps(outcome) for outcome in outcomes])}


def outcome_from(document: dict[str, Any]) -> Outcome:
    """Returns the outcome that a worker reported."""
    return Outcome(**document)
