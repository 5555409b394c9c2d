"""Logits of many models as a Ray Data pipeline, whose actors hold the images."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext

from ...base.errors import EnvironmentFault
from ...plan.units import Outcome, Unit
from ...recipe.sections import Resources
from ...work.execute import execute
from ..base import Ledger
from .placement import Placement
from .trials import cause
from .worker import WorkerSetup


class OutputsActor:
    """A Ray Data actor: holds the images and computes the logits of one model a row."""

    def __init__(self, setup: WorkerSetup, units: bytes):
        """**Arguments:** `units`: the pickled reference of the units in the object store."""
        self._units: list[Unit] = ray.get(ray.cloudpickle.loads(units))
        self._context = setup.context()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outcomes = [asdict(execute(self._units[int(i)], self._context)) for i in batch["index"]]
        return {"outcome": np.asarray([json.dumps(outcome) for outcome in outcomes])}


def run_outputs(
    units: Sequence[Unit], setup: WorkerSetup, placement: Placement, resources: Resources, ledger: Ledger
) -> str:
    """Makes the logits of `units`' models.

    **Returns:** why the pipeline broke; empty where it did not.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # importing ray.data sets it up anew
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Half a unit's CPUs each: actors and Ray Data's own tasks must fit side by side even on two
    # cores.
    actors = max(1, min(placement.slots("outputs"), len(units)))
    pool = ActorPoolStrategy(size=actors)
    if placement.may_grow:
        pool = ActorPoolStrategy(min_size=actors, max_size=max(actors, placement.workers("outputs", len(units))))
    ordered = sorted(units, key=lambda unit: -unit.cost)
    kept = ray.put(ordered)
    rows = ray.data.from_items([{"index": i} for i in range(len(ordered))], override_num_blocks=len(ordered))
    with warnings.catch_warnings():
        # Ray 2.60 has no named parameter for the limit on retries, and Ray Data's default is none
        # at all.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        outcomes = rows.map_batches(
            OutputsActor,
            batch_size=1,
            compute=pool,
            num_cpus=resources.cpus_per_unit / 2,
            num_gpus=resources.gpus_per_unit or None,
            accelerator_type=resources.accelerator_type,
            max_task_retries=resources.max_retries,
            fn_constructor_kwargs={"setup": setup, "units": ray.cloudpickle.dumps(kept)},
        )
    try:
        for row in outcomes.iter_rows():
            ledger.settle(Outcome(**json.loads(row["outcome"])))
    except Exception as error:
        inner = cause(error)
        if isinstance(inner, EnvironmentFault):
            raise EnvironmentFault(str(inner)) from None
        lines = str(error).strip().splitlines()
        return lines[-1] if lines else type(error).__name__
    return ""
