"""The Ray Tune trainable: a trial is a chunk of units, a step is one of them, or several short ones. Actors are reused from trial to trial."""

from __future__ import annotations

import dataclasses
import socket
import time
from typing import Any

import numpy as np
from ray import tune

from ..data import ExperimentData
from ..execute import Context, execute, execute_each
from ..store import open_store
from ..units import Outcome, Unit
from .base import Listener

STEP_SECONDS = 0.5


class UnitTrainable(tune.Trainable):
    """Executes the units of one chunk. Results live in the store; a step reports only what became of them."""

    def setup(
        self,
        config: dict[str, Any],
        *,
        store_uri: str = "",
        shared: bytes = b"",
        chunks: list[list[Unit]] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """**Arguments:** `shared`: the pickled reference of the data's arrays in the object store."""
        self._context = worker_context(store_uri, shared, options or {})
        self._chunks = chunks or []
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        chunk = self._chunks[config["chunk"]]
        self._left = len(chunk)
        self._outcomes = execute_each(chunk, self._context)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        # Without this method an actor cannot be reused: Tune would wait for ever.
        self._begin(new_config)
        if self._context.device != "cpu":
            import torch

            torch.cuda.empty_cache()
        return True

    def step(self) -> dict[str, Any]:
        # Every report costs Tune's loop several milliseconds: short units are told together.
        told: list[dict[str, Any]] = []
        until = time.monotonic() + STEP_SECONDS
        while self._left and (not told or time.monotonic() < until):
            told.append(dataclasses.asdict(next(self._outcomes)))
            self._left -= 1
        return {"outcomes": told, "done": not self._left}

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
        for outcome in map(outcome_from, result["outcomes"]):
            if outcome.key not in self._reported and self._listener is not None:
                self._reported.add(outcome.key)
                self._listener(outcome)


def worker_context(store_uri: str, shared: bytes, options: dict[str, Any]) -> Context:
    """Returns this worker's context: data as read-only views of the object store, one device, a fixed number of threads.

    **Arguments:** `shared`: the pickled reference of the data's arrays in the object store. As bytes, since Ray warns of
    references among the arguments of an actor that it may start again; the driver keeps what they name alive.
    """
    import ray
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
        import ray

        self._units = ray.get(ray.cloudpickle.loads(units))
        self._context = worker_context(store_uri, shared, options)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        import json

        outcomes = [dataclasses.asdict(execute(self._units[int(i)], self._context)) for i in batch["index"]]
        return {"outcome": np.asarray([json.dumps(outcome) for outcome in outcomes])}


def outcome_from(document: dict[str, Any]) -> Outcome:
    """Returns the outcome that a worker reported."""
    return Outcome(**document)
