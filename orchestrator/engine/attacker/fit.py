"""The shadow attack on tables that one process should not hold: Ray Data streams Parquet, Ray Train
trains XGBoost, Ray Tune tries the candidates.

A table is divided into fragments (row groups). Each worker of Ray Train gets a fixed list of them.
Ray Data reads them and makes the softmax. The worker spools what it receives to an Arrow file on
its own disk, once. XGBoost replays that file as often as it likes, so no process holds the table.
Neither the division nor the order is left to chance. So a training run that lost a worker and began
again gives the same attacker.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from pyarrow.fs import FileSystem
from ray.data import DataContext, ExecutionOptions, ExecutionResources
from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.xgboost import XGBoostTrainer

from attack.attacks.spool import FOLDS
from attack.attacks.xgboost import FittedXGBoost, XGBoostAttack, refuse_split_by_row
from attack.outputs.fragments import Fragment, deal, fragments, label_classes_of, models_of, softmax_width

from .candidates import try_candidates
from .path import knows_gpus
from .trainer import CandidateTrainer
from .worker import ROLES, Prepare, WorkerPlan, train_worker

MAX_TASKS = 256  # Ray Data tasks for one worker's fragments; more cost more than they balance


def fit_distributed(paths: Sequence[str | Path], attack: XGBoostAttack, **options: Any) -> FittedXGBoost:
    """Fits `attack` on outputs in Parquet files, on Ray workers; see `fit_all_distributed`."""
    return fit_all_distributed(paths, [attack], **options)[0]


def fit_all_distributed(
    paths: Sequence[str | Path],
    attacks: Sequence[XGBoostAttack],
    *,
    num_workers: int,
    resources_per_worker: dict[str, float] | None = None,
    use_gpu: bool | None = None,
    filesystem: FileSystem | None = None,
    scratch_dir: str | Path | None = None,
    memory_per_worker: float | None = None,
    rows_per_worker: int | None = None,
    cut_rows: int | None = None,
    max_failures: int = 2,
    on_fitted: Callable[[int, FittedXGBoost], None] | None = None,
) -> list[FittedXGBoost]:
    """Fits each of `attacks` on outputs in Parquet files, on Ray workers. Ray must be initialised.

    The table is read, spooled and binned once for all of them; each is a trial of Ray Tune, which
    reports its validation F1. A candidate that is fitted is not fitted again after a worker has
    died.

    **Arguments:**

    - `paths`: files in the outputs schema that every node can read, also `s3://…`; rows of other
      roles and folds are passed over.
    - `num_workers`, `resources_per_worker`: of Ray Train. At least one CPU must be left to Ray
      Data.
    - `use_gpu`: None: where the cluster has a GPU for each worker and XGBoost is built for them.
    - `filesystem`: a `pyarrow.fs` file system, where the paths do not say which.
    - `scratch_dir`: where workers spool, on each node, made where it is missing (default: its
      temporary folder); it takes about the logits' size.
    - `memory_per_worker`: bytes that binned data may take in a worker, on its GPU where it has one.
        Above that, XGBoost pages it from disk, with the same result. None: a share of what is free.
    - `rows_per_worker`: about how many rows a worker may learn from, of both folds together. Of a
        larger table we take a random sample, by the seed of the first attack, and notes say so.
        XGBoost keeps 34 to 44 bytes for each row, on disk or not: this bounds them. None: all rows.
    - `cut_rows`: XGBoost finds the edges of its bins on about so many rows at most. Rows of other
      roles and folds count where they share row groups with those learned from. None: all rows.
    - `max_failures`: how often workers that died are replaced before giving up. It does not change
      the result.
    - `on_fitted`: told of each attack, by its number, as soon as it is fitted.

    **Raises:**

    - `ValueError` where `attacks` are none or differ in their features, or no CPU is left to Ray
      Data.
    - `ValueError` where a role is missing from a fold, or a model is in several folds.
    - `RuntimeError` with the first line of a worker's error.
    """
    shared = {(attack.label, attack.forget_classes) for attack in attacks}
    if len(shared) != 1:
        raise ValueError(
            f"attacks: {len(shared)} kinds of features in {len(attacks)} attacks; one and the same is needed"
        )
    names = [str(path) for path in paths]
    refuse_split_by_row(models_of(names, filesystem, roles=ROLES))
    resources = dict(resources_per_worker or {"CPU": 1.0})
    if use_gpu is None:
        use_gpu = gpus_for(num_workers)
    free = _free_cpus(num_workers, float(resources.get("CPU", 1.0)))
    label_classes = label_classes_of(names, filesystem)
    shards = shards_of(names, num_workers, filesystem)
    share = _share(shards, rows_per_worker)
    datasets = {
        f"shard-{rank}": _stream(shard, attacks[0], filesystem, min(1.0, free / num_workers), share)
        for rank, shard in enumerate(shards)
    }
    trainer: Any = ray.remote(num_cpus=0)(CandidateTrainer).remote(label_classes)
    plan = WorkerPlan(
        label=attacks[0].label,
        label_classes=label_classes,
        width=softmax_width(names, attacks[0].forget_classes, filesystem),
        trainer=trainer,
        use_gpu=use_gpu,
        threads=max(1, int(resources.get("CPU", 1))),
        scratch=None if scratch_dir is None else Path(scratch_dir),
        memory=memory_per_worker,
        share=share,
        cuts_share=1.0 if cut_rows is None else min(1.0, cut_rows / max(1.0, share * sum(map(_rows, shards)))),
    )
    with tempfile.TemporaryDirectory(prefix="orc-train-") as storage:
        workers = _Workers(
            XGBoostTrainer(
                train_loop_per_worker=train_worker,
                train_loop_config={"plan": plan},
                scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu, resources_per_worker=resources),
                datasets=datasets,
                # Every worker reads its own shard and no other, in order: the same rows again after
                # a failure.
                dataset_config=DataConfig(datasets_to_split=[], execution_options=_execution_options(num_workers)),
                run_config=RunConfig(
                    name="attacker", storage_path=storage, failure_config=FailureConfig(max_failures=max_failures)
                ),
            ),
            trainer,
        )
        try:
            fitted = try_candidates(trainer, attacks, max_failures, on_fitted, lambda: workers.problem is not None)
        except Exception:
            workers.close()
            if workers.problem is not None:  # the trials only say that nobody trains for them
                raise RuntimeError(f"distributed XGBoost failed: {_first_line(workers.problem)}") from workers.problem
            raise
        # Not where the user interrupts: the workers may be in a long candidate, and end with Ray's
        # session.
        workers.close()
    return fitted


def _share(shards: Sequence[Sequence[Fragment]], rows_per_worker: int | None) -> float:
    """Returns the share of the rows that leaves no worker more than `rows_per_worker`, by the row
    groups' sizes.
    """
    if rows_per_worker is None:
        return 1.0
    if rows_per_worker < 1:
        raise ValueError(f"rows_per_worker: {rows_per_worker} is not allowed; give 1 or more, or None for all rows")
    return min(1.0, rows_per_worker / max(1, *map(_rows, shards)))


def _rows(shard: Sequence[Fragment]) -> int:
    """Returns how many rows the row groups hold, those of other roles and folds counted."""
    return sum(part.stop - part.start for part in shard)


class _Workers:
    """Ray Train's run in a thread of its own. Its workers serve `trainer` until that is ended."""

    def __init__(self, run: XGBoostTrainer, trainer: Any):
        self.problem: BaseException | None = None
        self._run, self._trainer = run, trainer
        self._thread = threading.Thread(target=self._fit, daemon=True, name="attackers")
        self._thread.start()

    def _fit(self) -> None:
        try:
            self._run.fit()
        except BaseException as error:  # reported to whoever waits for the attackers
            self.problem = error
            if ray.is_initialized():  # else the session has ended, and Ray would start another
                ray.kill(self._trainer)

    def close(self) -> None:
        """Ends the trainer, so that the workers end, and waits for them."""
        ray.kill(self._trainer)
        self._thread.join()


def shards_of(paths: Sequence[str], workers: int, filesystem: FileSystem | None = None) -> list[list[Fragment]]:
    """Returns each worker's fragments of the rows that the attack is fitted on: the same for the
    same files, in their order.
    """
    return deal(fragments(paths, filesystem, roles=ROLES, folds=FOLDS, least=workers), workers)


def gpus_for(workers: int) -> bool:
    """Says whether XGBoost can train on GPUs: one for each worker in the cluster, and a build that
    knows them.
    """
    return knows_gpus() and ray.cluster_resources().get("GPU", 0.0) >= workers


def _free_cpus(workers: int, each: float) -> float:
    """Returns the CPUs that workers leave to Ray Data; refuses what could only wait for ever."""
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
    store = float(ray.cluster_resources().get("object_store_memory", 1e9))
    return ExecutionOptions(
        preserve_order=True,
        resource_limits=ExecutionResources.for_limits(object_store_memory=0.5 * store / workers),
    )


def _stream(
    parts: Sequence[Fragment], attack: XGBoostAttack, filesystem: FileSystem | None, cpus: float, share: float
) -> Any:
    """Returns the lazy dataset of one worker: softmax, label, target and fold of its rows."""
    DataContext.get_current().enable_progress_bars = False
    items = [vars(part) for part in parts] or [vars(Fragment("", -1, 0, 0))]
    return ray.data.from_items(items, override_num_blocks=min(len(items), MAX_TASKS)).map_batches(
        Prepare(attack.forget_classes, filesystem, share, attack.seed),
        batch_size=1,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=cpus,
    )


_RAISED = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception)): (.+)$", re.MULTILINE)
_WRAPPERS = ("RayTaskError", "TrainingFailedError", "WorkerGroupError", "ControllerError", "UserCodeException")


def _first_line(error: BaseException) -> str:
    """Returns the line with which a worker's own exception began: Ray wraps it, quotes its
    traceback and adds advice.
    """
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
