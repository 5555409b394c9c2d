"""What runs on the workers of the distributed shadow attack: reading, spooling, training what trials want, and handing back."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from attack.attacks.spool import FOLDS, MAX_BIN, Spool, prepared
from attack.outputs.fragments import Fragment, pieces
from attack.outputs.sampling import drawn
from attack.outputs.table import rows_where

from .exchange import NO_MORE, NONE_YET, POLL_SECONDS
from .memory import for_binned_data

COLUMNS = ["model_id", "role", "fold", "sample_id", "label", "logits"]
ROLES = ("original", "retrained")


@dataclass(frozen=True)
class Prepare:
    """Reads a fragment and yields what the attack learns from, a piece at a time; of `share` of the rows, drawn by `seed`."""

    forget_classes: tuple[int, ...]
    filesystem: Any
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


def train_worker(config: dict[str, Any]) -> None:
    """One worker: spools its shard, and trains with the others what trials want until they want no more."""
    from ray import train

    context = train.get_context()
    rank = context.get_world_rank()
    if config["scratch"] is not None:  # each node has its own: nobody else could have made it
        Path(config["scratch"]).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="orc-spool-", dir=config["scratch"]) as folder:
        spool = Spool(Path(folder), config["width"], config["label_classes"], config["label"])
        spool.fill(train.get_dataset_shard(f"shard-{rank}").iter_batches(batch_size=None, batch_format="pyarrow"))
        memory = config["memory"] or for_binned_data(context.get_local_world_size(), config["use_gpu"])
        external = spool.bytes_in_memory() > memory
        training = spool.matrix("train", external, None, config["threads"])
        validation = spool.matrix("validation", external, training, config["threads"])
        facts = {
            "labels": spool.targets("validation").astype(bool),
            "lowest": spool.lowest,
            "highest": spool.highest,
            "external": external,
            "share": config["share"],
        }
        _serve(config, rank, training, validation, facts)
        train.report({})  # once: each report waits for a poll of the controller


def _serve(config: dict[str, Any], rank: int, training: Any, validation: Any, facts: dict[str, Any]) -> None:
    """Trains what is wanted and hands back trees and validation scores."""
    import ray
    import xgboost

    exchange = config["exchange"]
    device: dict[str, Any] = {"device": "cuda"} if config["use_gpu"] else {"nthread": config["threads"]}
    while True:
        # All workers must train the same, whatever one of them has handed in meanwhile: rank 0 says what.
        wanted: Any = xgboost.collective.broadcast(ray.get(exchange.wanted.remote()) if rank == 0 else None, 0)
        if wanted == NO_MORE:
            return
        if wanted == NONE_YET:
            time.sleep(POLL_SECONDS)
            continue
        number, attack = wanted
        booster = xgboost.train(
            {**attack.parameters(), **device, "max_bin": MAX_BIN},
            training,
            num_boost_round=attack.rounds,
            evals=[(validation, "validation")],
            early_stopping_rounds=attack.early_stopping,
            verbose_eval=False,
        )
        booster = booster[: booster.best_iteration + 1]
        scores = booster.predict(validation).astype(np.float32)[: len(facts["labels"])]
        model = {"model": bytes(booster.save_raw("ubj"))} if rank == 0 else {}
        ray.get(exchange.put.remote(number, rank, {**facts, **model, "scores": scores}))
        # A barrier: asked before all have handed this one back, the exchange would want it once more.
        xgboost.collective.allreduce(np.ones(1), xgboost.collective.Op.SUM)
