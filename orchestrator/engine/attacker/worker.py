"""What runs on the workers of the distributed shadow attack: they read, spool, train what is wanted
and hand it back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from pyarrow.fs import FileSystem
from ray import train
from ray.exceptions import RayActorError

from attack.attacks.spool import FOLDS, MAX_BIN, Spool, prepared
from attack.library import load_xgboost
from attack.outputs.fragments import Fragment, pieces
from attack.outputs.sampling import drawn
from attack.outputs.table import rows_where

from .memory import for_binned_data
from .trainer import Part, Trained, Wanted

COLUMNS = ["model_id", "role", "fold", "sample_id", "label", "logits"]
ROLES = ("original", "retrained")


@dataclass(frozen=True)
class WorkerPlan:
    """What the workers of one table are told.

    **Arguments:**

    - `label`, `label_classes`, `width`: of the features; `width` counts the softmax columns.
    - `trainer`: the actor of a `CandidateTrainer`.
    - `use_gpu`, `threads`: how XGBoost computes.
    - `scratch`: where workers spool, a folder of each node's own; None: its temporary folder.
    - `memory`: bytes that binned data may take; None: a share of what is free.
    - `share`: of the rows that workers learn from. `cuts_share`: of these, that the bins' cuts are
        found on.
    """

    label: str
    label_classes: int
    width: int
    trainer: Any
    use_gpu: bool
    threads: int
    scratch: Path | None
    memory: float | None
    share: float
    cuts_share: float = 1.0


@dataclass(frozen=True)
class Prepare:
    """Reads a fragment and yields what the attack learns from, a piece at a time.

    **Arguments:** `share`: of the rows, drawn by `seed`.
    """

    forget_classes: tuple[int, ...]
    filesystem: FileSystem | None
    share: float = 1.0
    seed: int = 0

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for part in batch.to_pylist():
            for table in pieces(Fragment(**part), self.filesystem, COLUMNS):
                rows = rows_where(table, role=ROLES, fold=FOLDS)
                if self.share < 1.0:
                    rows = rows.filter(pa.array(drawn(rows, self.share, self.seed)))
                if len(rows):
                    yield prepared(rows, self.forget_classes)


def train_worker(config: dict[str, WorkerPlan]) -> None:
    """One worker: spools its shard, and trains with the others what is wanted until no more is.

    **Arguments:** `config`: Ray Train takes a dictionary; the plan is under `plan`.
    """
    plan = config["plan"]
    context = train.get_context()
    rank = context.get_world_rank()
    if plan.scratch is not None:  # each node has its own: nobody else could have made it
        plan.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="orc-spool-", dir=plan.scratch) as folder:
        spool = Spool(Path(folder), plan.width, plan.label_classes, plan.label, rank)
        spool.fill(train.get_dataset_shard(f"shard-{rank}").iter_batches(batch_size=None, batch_format="pyarrow"))
        memory = plan.memory or for_binned_data(context.get_local_world_size(), plan.use_gpu)
        external = spool.bytes_in_memory() > memory
        # Told by the plan, as all workers find cuts together.
        few = None if plan.cuts_share >= 1.0 else spool.matrix("train", external, None, plan.threads, plan.cuts_share)
        training = spool.matrix("train", external, few, plan.threads)
        del few
        validation = spool.matrix("validation", external, training, plan.threads)
        labels = spool.targets("validation").astype(bool)

        def part(scores: np.ndarray) -> Part:
            shares = plan.share, plan.cuts_share
            return Part(labels, scores[: len(labels)], spool.lowest, spool.highest, external, *shares)

        serve(plan, training, validation, part)
        train.report({})  # once: each report waits for a poll of the controller


def serve(plan: WorkerPlan, training: Any, validation: Any, part: Callable[[np.ndarray], Part]) -> None:
    """Trains what is wanted until the driver ends the trainer.

    Rank 0 of XGBoost's collective alone talks to the trainer, since all workers must train the
    same.

    **Arguments:** `training`, `validation`: XGBoost's matrices. `part`: from scores to this
    worker's part.
    """
    xgboost = load_xgboost()

    rank, workers = xgboost.collective.get_rank(), xgboost.collective.get_world_size()
    device: dict[str, Any] = {"device": "cuda"} if plan.use_gpu else {"nthread": plan.threads}
    trained: Trained | None = None
    while True:
        wanted = _broadcast(_ask(plan.trainer, trained) if rank == 0 else None)
        if not isinstance(wanted, Wanted):
            return
        booster = xgboost.train(
            {**wanted.attack.parameters(), **device, "max_bin": MAX_BIN},
            training,
            num_boost_round=wanted.attack.rounds,
            evals=[(validation, "validation")],
            early_stopping_rounds=wanted.attack.early_stopping,
            verbose_eval=False,
        )
        booster = booster[: booster.best_iteration + 1]
        mine = part(booster.predict(validation).astype(np.float32))
        parts = tuple(_broadcast(mine if rank == root else None, root) for root in range(workers))
        trained = Trained(wanted.number, bytes(booster.save_raw("ubj")), parts)


def _broadcast(value: Any, root: int = 0) -> Any:
    """Returns the value of worker `root` on every worker. XGBoost does not broadcast None, so a
    tuple carries it.
    """
    xgboost = load_xgboost()

    return xgboost.collective.broadcast((value,), root)[0]


def _ask(trainer: Any, trained: Trained | None) -> Wanted | None:
    """Hands back what was trained and returns what is wanted next; None where the driver has ended
    the trainer.
    """
    try:
        wanted: Wanted = ray.get(trainer.next.remote(trained))
    except RayActorError:
        return None
    return wanted
