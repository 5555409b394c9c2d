"""The shadow attack on tables that one process should not hold: Ray Data streams Parquet, Ray Train trains XGBoost.

Each worker turns its shard into features once, spools them to an Arrow file on its own disk, and XGBoost replays that
file (it reads its input several times, and a shard gives its rows in another order each time). Nothing holds the table.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from attack.features import shadow_features
from attack.xgboost_attack import FittedXGBoost, XGBoostAttack, best_f1, constant_feature_notes

COLUMNS = ["model_id", "role", "fold", "sample_id", "label", "logits"]
BATCH_ROWS = 65_536


def choose_path(rows: int, threshold: int) -> str:
    """Returns `distributed` from `threshold` rows on, else `in_process`."""
    return "distributed" if rows >= threshold else "in_process"


def fit_distributed(
    paths: Sequence[str | Path],
    attack: XGBoostAttack,
    *,
    num_workers: int,
    resources_per_worker: dict[str, float] | None = None,
    use_gpu: bool = False,
) -> FittedXGBoost:
    """Fits `attack` on outputs in Parquet files, on Ray workers. Ray must be initialised.

    **Arguments:**

    - `paths`: files in the outputs schema that every node can read; rows of other roles and folds are passed over.
    - `num_workers`, `resources_per_worker`, `use_gpu`: of Ray Train. Leave a CPU to Ray Data.

    **Raises:** `RuntimeError` with the first line of a worker's error.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    import ray
    import ray.data
    from ray.train import RunConfig, ScalingConfig
    from ray.train.xgboost import XGBoostTrainer

    ray.data.DataContext.get_current().enable_progress_bars = False
    label_classes = label_classes_of(paths)
    datasets: dict[str, Any] = {
        fold: ray.data.read_parquet([str(p) for p in paths]).select_columns(COLUMNS).filter(expr=_in_fold(fold))
        for fold in ("train", "validation")
    }
    mailbox: Any = ray.remote(num_cpus=0)(_Mailbox)
    mailbox = mailbox.remote()
    config: dict[str, Any] = {"attack": attack, "label_classes": label_classes, "mailbox": mailbox, "use_gpu": use_gpu}
    config["threads"] = max(1, int((resources_per_worker or {}).get("CPU", 1)))
    with tempfile.TemporaryDirectory(prefix="orc-train-") as scratch:
        trainer = XGBoostTrainer(
            train_loop_per_worker=_train_worker,
            train_loop_config=config,
            scaling_config=ScalingConfig(
                num_workers=num_workers, use_gpu=use_gpu, resources_per_worker=resources_per_worker
            ),
            datasets=datasets,
            run_config=RunConfig(name="attacker", storage_path=scratch),
        )
        try:
            trainer.fit()
        except Exception as error:
            raise RuntimeError(f"distributed XGBoost failed: {_first_line(error)}") from error
    raw, varying = ray.get(mailbox.get.remote())
    ray.kill(mailbox)
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(bytearray(raw))
    fitted = FittedXGBoost(
        attack, booster, label_classes, 0.5, 0.0, [] if varying else constant_feature_notes(np.zeros((2, 1)))
    )
    labels, scores = _validation_scores(paths, fitted)
    threshold, f1 = best_f1(labels, scores)
    return FittedXGBoost(attack, booster, label_classes, threshold, f1, fitted.notes)


def label_classes_of(paths: Sequence[str | Path]) -> int:
    """Returns how many classes the one-hot label needs, from the files' schema and statistics alone."""
    widest = 0
    for path in paths:
        file = pq.ParquetFile(path)
        column = file.schema_arrow.get_field_index("label")
        widest = max(widest, file.schema_arrow.field("logits").type.list_size)
        for group in range(file.metadata.num_row_groups):
            statistics = file.metadata.row_group(group).column(column).statistics
            if statistics is not None and statistics.has_min_max:
                widest = max(widest, int(statistics.max) + 1)
    return widest


def _in_fold(fold: str) -> Any:
    from ray.data.expressions import col

    return (col("fold") == fold) & col("role").is_in(["original", "retrained"])


class _Mailbox:
    """Holds what the first worker hands back; a few megabytes that need no shared file system."""

    def __init__(self) -> None:
        self._content: Any = None

    def put(self, content: Any) -> None:
        self._content = content

    def get(self) -> Any:
        return self._content


def _train_worker(config: dict[str, Any]) -> None:
    """One worker: spools its shards, trains with the others, and the first hands the model back."""
    import ray
    import xgboost
    from ray import train

    attack: XGBoostAttack = config["attack"]
    with tempfile.TemporaryDirectory(prefix="orc-spool-") as folder:
        files, varying = {}, False
        for fold in ("train", "validation"):
            path = Path(folder) / f"{fold}.arrow"
            varying |= _spool(train.get_dataset_shard(fold), path, config["label_classes"])
            files[fold] = path
        device: dict[str, Any] = {"device": "cuda"} if config["use_gpu"] else {"nthread": config["threads"]}
        training = xgboost.QuantileDMatrix(_replay(files["train"]), max_bin=256)
        validation = xgboost.QuantileDMatrix(_replay(files["validation"]), ref=training, max_bin=256)
        booster = xgboost.train(
            {**attack.parameters(), **device, "max_bin": 256},
            training,
            num_boost_round=attack.rounds,
            evals=[(validation, "validation")],
            early_stopping_rounds=attack.early_stopping,
            verbose_eval=False,
        )
        booster = booster[: booster.best_iteration + 1]
        if train.get_context().get_world_rank() == 0:
            ray.get(config["mailbox"].put.remote((bytes(booster.save_raw("ubj")), varying)))
        train.report({})  # once: each report waits for a poll of the controller


def _spool(shard: Any, path: Path, label_classes: int) -> bool:
    """Writes a shard's features and targets to an Arrow file; returns whether any model output varies."""
    writer = None
    varying = False
    with pa.OSFile(str(path), "wb") as sink:
        for batch in shard.iter_batches(batch_size=BATCH_ROWS, batch_format="pyarrow"):
            features = shadow_features(batch, label_classes)
            varying |= not constant_feature_notes(features)
            target = pc.equal(batch["role"], "original").cast(pa.float32()).combine_chunks()
            columns = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
            table = pa.table({"features": columns, "target": target})
            if writer is None:
                writer = pa.ipc.new_file(sink, table.schema)
            writer.write_table(table)
        if writer is None:
            raise RuntimeError("a worker received no rows: use fewer workers for a table this small")
        writer.close()
    return varying


def _replay(path: Path) -> Any:
    """Returns an XGBoost data iterator over a spooled file, memory-mapped."""
    import xgboost

    class Replay(xgboost.DataIter):
        def __init__(self) -> None:
            self._batches: Iterator[tuple[np.ndarray, np.ndarray]] = iter(())
            super().__init__()

        def next(self, input_data: Any) -> bool:
            found = next(self._batches, None)
            if found is None:
                return False
            input_data(data=found[0], label=found[1])
            return True

        def reset(self) -> None:
            self._batches = _batches(path)

    return Replay()


def _batches(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    with pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        for index in range(file.num_record_batches):
            batch = file.get_batch(index)
            column = batch.column("features")
            yield (
                column.flatten().to_numpy().reshape(len(batch), column.type.list_size),
                batch.column("target").to_numpy(),
            )


def _validation_scores(paths: Sequence[str | Path], fitted: FittedXGBoost) -> tuple[np.ndarray, np.ndarray]:
    """Scores the validation fold batch by batch; keeps one number a row."""
    labels, scores = [], []
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=BATCH_ROWS, columns=COLUMNS):
            table = pa.Table.from_batches([batch])
            wanted = pc.and_(
                pc.equal(table["fold"], "validation"),
                pc.is_in(table["role"], value_set=pa.array(["original", "retrained"])),
            )
            table = table.filter(wanted)
            if len(table):
                labels.append(pc.equal(table["role"], "original").to_numpy().astype(np.float32))
                scores.append(fitted.score(table))
    return np.concatenate(labels), np.concatenate(scores)


def _first_line(error: BaseException) -> str:
    """Returns the innermost cause's first line: Ray Train wraps and shortens what a worker raised."""
    current: BaseException = error
    for _ in range(10):
        inner = getattr(current, "cause", None) or current.__cause__
        failures = getattr(current, "worker_failures", None)
        if isinstance(failures, dict) and failures:
            inner = next(iter(failures.values()))
        if not isinstance(inner, BaseException):
            break
        current = inner
    lines = [line for line in str(current).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(current).__name__
