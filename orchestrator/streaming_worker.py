"""What runs on the workers of the distributed shadow attack: reading, spooling, training, and handing back."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from attack.fragments import Fragment, pieces
from attack.outputs import rows_where
from attack.spool import FOLDS, MAX_BIN, Spool, prepared
from attack.xgboost_attack import XGBoostAttack

from .worker_memory import for_binned_data

COLUMNS = ["model_id", "role", "fold", "sample_id", "label", "logits"]
ROLES = ("original", "retrained")


@dataclass(frozen=True)
class Prepare:
    """Reads a fragment and yields what the attack learns from, a piece at a time."""

    forget_classes: tuple[int, ...]
    filesystem: Any

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for part in batch.to_pylist():
            for table in pieces(Fragment(**part), self.filesystem, COLUMNS):
                rows = rows_where(table, role=ROLES, fold=FOLDS)
                if len(rows):
                    yield prepared(rows, self.forget_classes)


class Mailbox:
    """Holds what the workers hand back of each attack; a few megabytes that need no shared file system."""

    def __init__(self) -> None:
        self._content: dict[int, dict[int, dict[str, Any]]] = {}
        self._taken = 0

    def put(self, number: int, rank: int, content: dict[str, Any]) -> None:
        """Takes what worker `rank` has of attack `number`."""
        if number >= self._taken:
            self._content.setdefault(number, {})[rank] = content

    def first_missing(self, workers: int) -> int:
        """Returns the number of the first attack that not all workers have handed back."""
        number = self._taken
        while len(self._content.get(number, {})) == workers:
            number += 1
        return number

    def take(self, number: int, workers: int) -> dict[int, dict[str, Any]] | None:
        """Returns what all workers handed back of an attack, and lets go of it; None where some have not."""
        if len(self._content.get(number, {})) < workers:
            return None
        self._taken = number + 1
        return self._content.pop(number)


def train_worker(config: dict[str, Any]) -> None:
    """One worker: spools its shard, trains with the others, scores its validation rows and hands back."""
    import ray
    import xgboost
    from ray import train

    attacks: list[XGBoostAttack] = config["attacks"]
    mailbox = config["mailbox"]
    context = train.get_context()
    rank = context.get_world_rank()
    if config["scratch"] is not None:  # each node has its own: nobody else could have made it
        Path(config["scratch"]).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="orc-spool-", dir=config["scratch"]) as folder:
        spool = Spool(Path(folder), config["width"], config["label_classes"], attacks[0].label)
        spool.fill(train.get_dataset_shard(f"shard-{rank}").iter_batches(batch_size=None, batch_format="pyarrow"))
        memory = config["memory"] or for_binned_data(context.get_local_world_size(), config["use_gpu"])
        external = spool.bytes_in_memory() > memory
        device: dict[str, Any] = {"device": "cuda"} if config["use_gpu"] else {"nthread": config["threads"]}
        training = spool.matrix("train", external, None, config["threads"])
        validation = spool.matrix("validation", external, training, config["threads"])
        targets = spool.targets("validation").astype(bool)
        # All workers must go on from the same attack, whatever one of them has handed in meanwhile: rank 0 says which.
        start = ray.get(mailbox.first_missing.remote(context.get_world_size())) if rank == 0 else 0
        start = int(xgboost.collective.broadcast(start, 0))
        for number, attack in enumerate(attacks[start:], start):
            booster = xgboost.train(
                {**attack.parameters(), **device, "max_bin": MAX_BIN},
                training,
                num_boost_round=attack.rounds,
                evals=[(validation, "validation")],
                early_stopping_rounds=attack.early_stopping,
                verbose_eval=False,
            )
            booster = booster[: booster.best_iteration + 1]
            content: dict[str, Any] = {
                "labels": targets,
                "scores": booster.predict(validation).astype(np.float32)[: spool.rows["validation"]],
                "lowest": spool.lowest,
                "highest": spool.highest,
                "external": external,
            }
            if rank == 0:
                content["model"] = bytes(booster.save_raw("ubj"))
            ray.get(mailbox.put.remote(number, rank, content))
        train.report({})  # once: each report waits for a poll of the controller
