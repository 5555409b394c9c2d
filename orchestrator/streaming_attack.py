"""The shadow attack on tables that one process should not hold: Ray Data streams Parquet, Ray Train trains XGBoost.

A table is divided into fragments (row groups) and each worker of Ray Train gets a fixed list of them. Ray Data reads them
and makes the softmax; the worker spools what it receives to an Arrow file on its own disk, once, and XGBoost replays that
file as often as it likes. No process holds the table, and since neither the division nor the order is left to chance,
a training run that lost a worker and began again gives the same attacker.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from attack.fragments import Fragment, deal, fragments, label_classes_of, pieces, softmax_width
from attack.metrics import best_f1
from attack.outputs import rows_where
from attack.spool import FOLDS, MAX_BIN, Spool, prepared
from attack.xgboost_attack import CONSTANT, FittedXGBoost, XGBoostAttack

COLUMNS = ["model_id", "role", "fold", "sample_id", "label", "logits"]
IDENTITY = ["model_id", "role", "method", "params", "fold", "sample_id"]
ROLES = ("original", "retrained")
MAX_TASKS = 256  # Ray Data tasks for one worker's fragments; more of them cost more than they balance
MEMORY_SHARE = 0.4  # of a node's free memory that the workers on it may fill with binned data


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
    filesystem: Any = None,
    scratch_dir: str | Path | None = None,
    memory_per_worker: float | None = None,
    max_failures: int = 2,
) -> FittedXGBoost:
    """Fits `attack` on outputs in Parquet files, on Ray workers. Ray must be initialised.

    **Arguments:**

    - `paths`: files in the outputs schema that every node can read, also `s3://…`; rows of other roles and folds are passed over.
    - `num_workers`, `resources_per_worker`, `use_gpu`: of Ray Train. At least one CPU must be left to Ray Data.
    - `filesystem`: a `pyarrow.fs` file system, where the paths do not say which.
    - `scratch_dir`: where workers spool, on each node (default: its temporary folder); it takes about the logits' size.
    - `memory_per_worker`: bytes that binned data may take in a worker; above, XGBoost pages it from disk, with the same
        result. None: a share of what the node has free.
    - `max_failures`: how often workers that died are replaced before giving up. It does not change the result.

    **Raises:** `ValueError` where a role is missing from a fold, or the cluster has no CPU left for Ray Data; `RuntimeError`
    with the first line of a worker's error.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    import ray
    from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.xgboost import XGBoostTrainer

    resources = dict(resources_per_worker or {"CPU": 1.0})
    free = _free_cpus(num_workers, float(resources.get("CPU", 1.0)))
    names = [str(path) for path in paths]
    label_classes = label_classes_of(names, filesystem)
    shards = deal(fragments(names, filesystem, roles=ROLES, folds=FOLDS, least=num_workers), num_workers)
    datasets = {
        f"shard-{rank}": _stream(shard, attack, filesystem, min(1.0, free / num_workers))
        for rank, shard in enumerate(shards)
    }
    mailbox: Any = ray.remote(num_cpus=0)(_Mailbox)
    mailbox = mailbox.remote()
    config: dict[str, Any] = {
        "attack": attack,
        "label_classes": label_classes,
        "width": softmax_width(names, attack.forget_classes, filesystem),
        "mailbox": mailbox,
        "use_gpu": use_gpu,
        "threads": max(1, int(resources.get("CPU", 1))),
        "scratch": None if scratch_dir is None else str(scratch_dir),
        "memory": memory_per_worker,
    }
    with tempfile.TemporaryDirectory(prefix="orc-train-") as storage:
        trainer = XGBoostTrainer(
            train_loop_per_worker=_train_worker,
            train_loop_config=config,
            scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu, resources_per_worker=resources),
            datasets=datasets,
            # Every worker reads its own shard and no other, in order: the same rows again after a failure.
            dataset_config=DataConfig(datasets_to_split=[], execution_options=_execution_options(num_workers)),
            run_config=RunConfig(
                name="attacker", storage_path=storage, failure_config=FailureConfig(max_failures=max_failures)
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            raise RuntimeError(f"distributed XGBoost failed: {_first_line(error)}") from error
    content = ray.get(mailbox.get.remote())
    ray.kill(mailbox)
    return _assemble(attack, label_classes, content)


def _assemble(attack: XGBoostAttack, label_classes: int, content: dict[int, dict[str, Any]]) -> FittedXGBoost:
    """Puts together what the workers handed back: the trees, and the validation scores that give the threshold."""
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(bytearray(content[0]["model"]))
    ranks = [content[rank] for rank in sorted(content)]
    labels = np.concatenate([rank["labels"] for rank in ranks])
    scores = np.concatenate([rank["scores"] for rank in ranks]).astype(np.float64)
    lowest = np.min([rank["lowest"] for rank in ranks], axis=0)
    highest = np.max([rank["highest"] for rank in ranks], axis=0)
    notes = [] if (highest > lowest).any() else [CONSTANT]
    external = sum(bool(rank["external"]) for rank in ranks)
    if external:
        notes.append(f"{external} of {len(ranks)} workers paged their data from disk")
    for role, value in (("original", 1), ("retrained", 0)):
        if not (labels == value).any():
            raise ValueError(
                f"role: no {role!r} rows in fold 'validation'; the shadow attack needs models of both roles there"
            )
    threshold, f1 = best_f1(labels.astype(np.float64), scores)
    return FittedXGBoost(attack, booster, label_classes, threshold, f1, notes)


def score_distributed(
    paths: Sequence[str | Path],
    fitted: FittedXGBoost,
    output: str | Path,
    *,
    filesystem: Any = None,
    roles: Sequence[str] | None = None,
    folds: Sequence[str] | None = None,
) -> int:
    """Scores outputs in Parquet files on Ray, into one Parquet file a fragment below `output`; returns the rows written.

    The files have the outputs' columns but label and logits, and `score` float64. Ray must be initialised; no process
    holds more than a fragment.
    """
    import ray

    names = [str(path) for path in paths]
    parts = fragments(names, filesystem, roles=roles, folds=folds)
    if filesystem is None:
        Path(output).mkdir(parents=True, exist_ok=True)
    attacker = ray.put(fitted)
    score = _ScoreFragments(attacker, str(output), filesystem, roles, folds)
    items = [{"index": index, **vars(part)} for index, part in enumerate(parts)]
    if not items:
        return 0
    counted = ray.data.from_items(items, override_num_blocks=min(len(items), 4 * MAX_TASKS)).map_batches(
        score, batch_size=1, batch_format="pyarrow", zero_copy_batch=True
    )
    return int(sum(row["rows"] for row in counted.iter_rows()))


def _free_cpus(workers: int, each: float) -> float:
    """Returns the CPUs that the workers leave to Ray Data; refuses what could only wait for ever."""
    import ray

    if workers < 1:
        raise ValueError(f"num_workers: {workers} is not allowed; give 1 or more")
    total = float(ray.cluster_resources().get("CPU", 0.0))
    free = total - workers * each
    if free < 0.5:
        raise ValueError(
            f"resources_per_worker: {workers} workers with {each:g} CPUs leave {max(free, 0):g} of {total:g} to Ray Data; "
            f"give CPU: {max(0.1, (total - 1) / workers):.2g} or fewer workers"
        )
    return free


def _execution_options(workers: int) -> Any:
    """Keeps the order of rows, and each worker's stream to its part of half the object store."""
    import ray
    from ray.data import ExecutionOptions, ExecutionResources

    store = float(ray.cluster_resources().get("object_store_memory", 1e9))
    return ExecutionOptions(
        preserve_order=True,
        resource_limits=ExecutionResources.for_limits(object_store_memory=0.5 * store / workers),
    )


def _stream(parts: Sequence[Fragment], attack: XGBoostAttack, filesystem: Any, cpus: float) -> Any:
    """Returns the lazy dataset of one worker: softmax, label, target and fold of its rows."""
    import ray
    from ray.data import DataContext

    DataContext.get_current().enable_progress_bars = False
    items = [vars(part) for part in parts] or [vars(Fragment("", -1, 0, 0))]
    return ray.data.from_items(items, override_num_blocks=min(len(items), MAX_TASKS)).map_batches(
        _Prepare(attack.forget_classes, filesystem),
        batch_size=1,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=cpus,
    )


@dataclass(frozen=True)
class _Prepare:
    """Reads a fragment and yields what the attack learns from, a piece at a time."""

    forget_classes: tuple[int, ...]
    filesystem: Any

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for part in batch.to_pylist():
            for table in pieces(Fragment(**part), self.filesystem, COLUMNS):
                rows = rows_where(table, role=ROLES, fold=FOLDS)
                if len(rows):
                    yield prepared(rows, self.forget_classes)


@dataclass(frozen=True)
class _ScoreFragments:
    """Scores fragments into files; a task that is run again writes the same file."""

    attacker: Any
    output: str
    filesystem: Any
    roles: Sequence[str] | None
    folds: Sequence[str] | None

    def __call__(self, batch: pa.Table) -> pa.Table:
        import ray

        fitted: FittedXGBoost = ray.get(self.attacker)
        total = 0
        for item in batch.to_pylist():
            name = f"scores-{item.pop('index'):06d}.parquet"
            writer: pq.ParquetWriter | None = None
            temporary = f"{self.output}/.{name}.tmp" if self.filesystem is None else f"{self.output}/{name}"
            for table in pieces(Fragment(**item), self.filesystem, None):
                filters = {"role": self.roles, "fold": self.folds}
                rows = rows_where(table, **{k: v for k, v in filters.items() if v is not None})
                if not len(rows):
                    continue
                scored = rows.select(IDENTITY).append_column("score", pa.array(fitted.score(rows)))
                if writer is None:
                    writer = pq.ParquetWriter(temporary, scored.schema, filesystem=self.filesystem, compression="zstd")
                writer.write_table(scored)
                total += len(scored)
            if writer is not None:
                writer.close()
                if self.filesystem is None:
                    os.replace(temporary, f"{self.output}/{name}")
        return pa.table({"rows": [total]})


class _Mailbox:
    """Holds what the workers hand back; a few megabytes that need no shared file system."""

    def __init__(self) -> None:
        self._content: dict[int, dict[str, Any]] = {}

    def put(self, rank: int, content: dict[str, Any]) -> None:
        self._content[rank] = content

    def get(self) -> dict[int, dict[str, Any]]:
        return self._content


def _train_worker(config: dict[str, Any]) -> None:
    """One worker: spools its shard, trains with the others, scores its validation rows and hands back."""
    import psutil
    import ray
    import xgboost
    from ray import train

    attack: XGBoostAttack = config["attack"]
    context = train.get_context()
    rank = context.get_world_rank()
    with tempfile.TemporaryDirectory(prefix="orc-spool-", dir=config["scratch"]) as folder:
        spool = Spool(Path(folder), config["width"], config["label_classes"], attack.label)
        spool.fill(train.get_dataset_shard(f"shard-{rank}").iter_batches(batch_size=None, batch_format="pyarrow"))
        memory = config["memory"] or MEMORY_SHARE * psutil.virtual_memory().available / context.get_local_world_size()
        external = spool.bytes_in_memory() > memory
        device: dict[str, Any] = {"device": "cuda"} if config["use_gpu"] else {"nthread": config["threads"]}
        training = spool.matrix("train", external, None, config["threads"])
        validation = spool.matrix("validation", external, training, config["threads"])
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
            "labels": spool.targets("validation").astype(bool),
            "scores": booster.predict(validation).astype(np.float32)[: spool.rows["validation"]],
            "lowest": spool.lowest,
            "highest": spool.highest,
            "external": external,
        }
        if rank == 0:
            content["model"] = bytes(booster.save_raw("ubj"))
        ray.get(config["mailbox"].put.remote(rank, content))
        train.report({})  # once: each report waits for a poll of the controller


_RAISED = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception)): (.+)$", re.MULTILINE)
_WRAPPERS = ("RayTaskError", "TrainingFailedError", "WorkerGroupError", "ControllerError", "UserCodeException")


def _first_line(error: BaseException) -> str:
    """Returns the line with which a worker's own exception began: Ray wraps it, quotes its traceback and adds advice."""
    texts, current = [], error
    for _ in range(10):
        texts.append(str(current))
        inner = getattr(current, "cause", None) or current.__cause__
        failures = getattr(current, "worker_failures", None)
        if isinstance(failures, dict) and failures:
            # The others fail too, of a collective that lost a member: theirs is not the cause.
            inner = min(failures.values(), key=lambda failure: "XGBoostError" in f"{type(failure)}{failure}")
        if not isinstance(inner, BaseException):
            break
        current = inner
    for text in reversed(texts):
        raised = [text for name, text in _RAISED.findall(text) if name not in _WRAPPERS]
        if raised:
            return raised[-1].strip()
    lines = [line for line in str(current).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(current).__name__
