"""Units on Ray: Tune trials for training, unlearning and attackers; a Ray Data pipeline for logits.

The stages follow each other and are never nested: Data pipelines inside trials that hold every CPU would wait for ever.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...base.errors import EnvironmentFault, disk_is_full
from ...base.files import sha256_file
from ...base.scratch import ScratchFolder
from ...plan.data import ExperimentData
from ...plan.facts import OutputsFacts, facts_of
from ...plan.specs import PlainSpec
from ...plan.units import Outcome, Unit, default_threads
from ...recipe.sections import Resources
from ...store import Store
from ...work.commit import commit_unit
from ...work.scoring import save_fitted
from ..attacker.fit import choose_path, fit_all_distributed, knows_gpus
from ..base import Listener, Starter
from ..queue import QueueServer
from .placement import Node, place
from .session import RaySession

WORKER_LOSSES = 50
QUEUE_LOSSES = 3  # rounds without any progress because the queue's process died
QUEUE_PATIENCE = (15.0, 30.0, 120.0)  # seconds until a queue that does not answer is given up for another
GIB = 2**30


class RayEngine:
    """Runs units on a Ray cluster."""

    def __init__(
        self,
        address: str | None,
        store: Store,
        data: ExperimentData,
        resources: Resources,
        *,
        outputs_folder: Path = Path("outputs"),
        allow_factory: bool = False,
        attacker_rows: int = 0,
    ):
        """**Arguments:** `outputs_folder`: where `outputs/*.parquet` lie. `attacker_rows`: that an attacker will be fitted on."""
        self.starting: Starter | None = None
        self.session = RaySession(address)
        self.store = store
        self.outputs_folder = outputs_folder
        self.resources = resources
        self.options = {
            "threads": default_threads(resources.cpus_per_unit),
            "gpus": resources.gpus_per_unit,
            "allow_factory": allow_factory,
        }
        try:
            self.placement = place(self.session.node_resources(), resources, self.session.may_grow())
            if attacker_rows >= resources.distributed_rows:
                self.placement.attackers(resources.cpus_per_unit / 2, knows_gpus())
        except EnvironmentFault:
            self.close()
            raise
        try:
            self._arrays = self.session.ray.put(data.to_arrays())
        except Exception as error:
            self.close()
            raise EnvironmentFault(f"Ray's object store cannot hold the images: {error}".splitlines()[0]) from error
        self._scratch = ScratchFolder("orc-tune-", Path(tempfile.gettempdir()))
        self._queue: Any = self._new_queue()  # it starts while the driver looks what is missing

    @property
    def slots(self) -> int:
        """How many models are trained at once on the nodes that are there."""
        return self.placement.slots("train")

    def describe(self) -> str:
        where = "local Ray" if self.session.started_here else "Ray cluster"
        gpus = f", {self.session.gpus():g} GPUs" if self.session.gpus() else ""
        nodes = self.session.nodes()
        return f"{where}: {nodes} node{'s' if nodes != 1 else ''}, {self.session.cpus():g} CPUs{gpus}, {self.slots} units at once"

    @property
    def shared(self) -> bytes:
        """The pickled reference of the data's arrays, for `worker_context`."""
        return bytes(self.session.ray.cloudpickle.dumps(self._arrays))

    def run(self, stage: str, units: Sequence[Unit], listener: Listener) -> None:
        with self.session.lifeline.guard():
            # Nodes join and leave between stages; what could never run was refused at the start.
            nodes = tuple(Node.of(node) for node in self.session.node_resources())
            self.placement = replace(self.placement, nodes=nodes or self.placement.nodes)
            if stage == "outputs":
                self._run_data(units, listener)
            elif stage == "attack" and self._attacker_path(units) == "distributed":
                self._run_distributed_attacks(units, listener)
            else:
                self._run_tune(stage, units, listener)

    def _attacker_rows(self, unit: Unit) -> int:
        return sum(facts_of(self.store, entry.key, OutputsFacts).rows for entry in unit.spec.outputs)

    def _attacker_path(self, units: Sequence[Unit]) -> str:
        rows = max((self._attacker_rows(unit) for unit in units), default=0)
        return choose_path(rows, self.resources.distributed_rows)

    def _run_distributed_attacks(self, units: Sequence[Unit], listener: Listener) -> None:
        """Fits all candidates on many workers, from one reading of the table; Ray Train is never nested in Tune's trials."""
        groups: dict[tuple[Any, ...], list[Unit]] = {}
        attacks = {unit.key: unit.spec.params for unit in units}
        for unit in units:
            groups.setdefault((attacks[unit.key].label, attacks[unit.key].forget_classes), []).append(unit)
        paths = [self._shared_file(self.outputs_folder / f"{role}.parquet") for role in ("original", "retrained")]
        for group in groups.values():
            self._fit_group(paths, group, [attacks[unit.key] for unit in group], listener)

    def _fit_group(
        self, paths: Sequence[str], units: Sequence[Unit], attacks: Sequence[Any], listener: Listener
    ) -> None:
        """Fits candidates that share their features; each is committed as soon as it is there."""
        cpus = self.resources.cpus_per_unit / 2
        workers = self.placement.attackers(cpus, knows_gpus())
        memory = self.resources.attacker_memory_gib
        started = time.perf_counter()
        done: set[str] = set()

        def commit(number: int, fitted: Any) -> None:
            nonlocal started
            unit, seconds = units[number], time.perf_counter() - started
            started = time.perf_counter()
            with self.store.attempt(unit.key) as attempt:
                meta = save_fitted(fitted, attempt, "distributed", self._attacker_rows(unit))
                commit_unit(unit, attempt, meta, seconds)
            done.add(unit.key)
            listener(Outcome(unit.key, unit.name, unit.kind, "done", seconds))

        try:
            fit_all_distributed(
                paths,
                attacks,
                num_workers=workers,
                resources_per_worker={"CPU": cpus},
                filesystem=self.store.filesystem(),
                memory_per_worker=None if memory is None else memory * GIB,
                on_fitted=commit,
            )
        except (RuntimeError, ValueError, OSError) as error:
            if disk_is_full(error):
                raise EnvironmentFault(f"attackers: no space left on a disk: {error}".splitlines()[0]) from error
            seconds = time.perf_counter() - started
            line = f"{type(error).__name__}: {error}".splitlines()[0]
            for unit in units:
                if unit.key not in done:
                    listener(Outcome(unit.key, unit.name, unit.kind, "failed", seconds, line, traceback.format_exc()))

    def _shared_file(self, path: Path) -> str:
        """Returns where every node can read the file: the driver's folder may be its own, so the store takes a copy."""
        unit = Unit(PlainSpec("table", {"file": path.name, "sha256": sha256_file(path)}), path.name)
        if not self.store.has(unit.key):
            with self.store.attempt(unit.key) as attempt:
                shutil.copyfile(path, attempt.path(path.name))
                commit_unit(unit, attempt, {}, 0.0)
        return self.store.location(unit.key, path.name)

    def _run_tune(self, stage: str, units: Sequence[Unit], listener: Listener) -> None:
        """Runs units in trials of Ray Tune, each a worker that pulls from one queue, until every unit was heard of."""
        reported: set[str] = set()
        problem = ""
        left = list(units)
        spare = QUEUE_LOSSES
        while left:
            told, queue_lives = self._run_trials(stage, left, listener, reported)
            problem = told or problem
            before, left = left, [u for u in left if u.key not in reported and not self.store.has(u.key)]
            # Workers may all have died, or their queue: fresh ones go on while that gets anywhere.
            spare -= not queue_lives
            if len(left) == len(before) and (queue_lives or spare < 0):
                break
        self._account(units, reported, listener, problem)

    def _run_trials(
        self, stage: str, units: Sequence[Unit], listener: Listener, reported: set[str]
    ) -> tuple[str, bool]:
        """Runs one round of workers; returns the last line of a trial's error, empty where there was none, and whether the
        queue that they pulled from is still there."""
        from ray import tune
        from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig

        from .worker import OutcomeCallback, UnitsReported, UnitTrainable

        # Importing it has set it up anew. Lost workers are tried again, and what fails in the end is told once, below.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        queue = self._loaded_queue(units)
        trainable = tune.with_resources(
            tune.with_parameters(
                UnitTrainable,
                store_uri=self.store.uri,
                shared=self.shared,
                units=list(units),
                queue=queue,
                options=self.options,
            ),
            self.placement.needs(stage),
        )
        workers = self.placement.workers(stage, len(units))
        faults: list[Exception] = []
        tuner = tune.Tuner(
            trainable,
            param_space={"worker": tune.grid_search(list(range(workers)))},
            tune_config=TuneConfig(reuse_actors=True, max_concurrent_trials=self.resources.concurrency or None),
            run_config=RunConfig(
                name=stage,
                storage_path=str(self._scratch.path),
                stop=UnitsReported(reported, len(reported) + len(units), faults),
                callbacks=[OutcomeCallback(listener, reported, list(units), faults, self.starting)],
                # A worker may be lost again and again; how often a unit may be is the queue's to count.
                failure_config=FailureConfig(max_failures=WORKER_LOSSES),
                checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                verbose=0,
            ),
        )
        with contextlib.redirect_stdout(io.StringIO()):
            results = tuner.fit()
        lives = _answers(queue)
        if faults:
            raise faults[0]
        errors = [error for error in (results[i].error for i in range(len(results))) if error is not None]
        environment = next((e for e in errors if isinstance(_cause(e), EnvironmentFault)), None)
        if environment is not None and any(u.key not in reported and not self.store.has(u.key) for u in units):
            raise EnvironmentFault(str(_cause(environment)))
        return str(errors[0]).strip().splitlines()[-1] if errors else "", lives

    def _new_queue(self) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Beside the driver, with which it lives and dies: other nodes may leave.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        remote: Any = ray.remote
        return remote(num_cpus=0, scheduling_strategy=here)(QueueServer).remote()

    def _loaded_queue(self, units: Sequence[Unit]) -> Any:
        """Returns the actor that workers pull `units` from; a new one where there is none yet, or it does not answer.

        Ray notices only after a minute that a process died while it was starting, and every worker would wait for it.
        """
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        for patience in QUEUE_PATIENCE:
            if self._queue is None:
                self._queue = self._new_queue()
            try:
                loading = self._queue.load.remote(
                    list(units), self.resources.max_retries, self.resources.units_per_trial
                )
                ray.get(loading, timeout=patience)
                return self._queue
            except (GetTimeoutError, RayActorError):
                ray.kill(self._queue)
                self._queue = None
        raise EnvironmentFault(
            "Ray starts no worker process on the driver's node; look at it with `orchestrator doctor`"
        )

    def _run_data(self, units: Sequence[Unit], listener: Listener) -> None:
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        from .worker import OutputsActor, outcome_from

        logging.getLogger("ray.data").setLevel(logging.ERROR)  # importing ray.data sets it up anew
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        reported: set[str] = set()
        # Half a unit's CPUs each: actors and Ray Data's own tasks must fit side by side even on two cores.
        actors = max(1, min(self.placement.slots("outputs"), len(units)))
        pool = ActorPoolStrategy(size=actors)
        if self.placement.may_grow:
            pool = ActorPoolStrategy(
                min_size=actors, max_size=max(actors, self.placement.workers("outputs", len(units)))
            )
        ordered = sorted(units, key=lambda unit: -unit.cost)
        kept = ray.put(ordered)
        rows = ray.data.from_items([{"index": i} for i in range(len(ordered))], override_num_blocks=len(ordered))
        with warnings.catch_warnings():
            # Ray 2.60 has no named parameter for the limit on retries yet, and Ray Data's own default is none at all.
            warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
            outcomes = rows.map_batches(
                OutputsActor,
                batch_size=1,
                compute=pool,
                num_cpus=self.resources.cpus_per_unit / 2,
                num_gpus=self.resources.gpus_per_unit or None,
                accelerator_type=self.resources.accelerator_type,
                max_task_retries=self.resources.max_retries,
                fn_constructor_kwargs={
                    "store_uri": self.store.uri,
                    "shared": self.shared,
                    "units": ray.cloudpickle.dumps(kept),
                    "options": self.options,
                },
            )
        problem = ""
        try:
            for row in outcomes.iter_rows():
                outcome = outcome_from(json.loads(row["outcome"]))
                reported.add(outcome.key)
                listener(outcome)
        except KeyboardInterrupt:
            raise
        except Exception as error:
            if isinstance(_cause(error), EnvironmentFault):
                raise EnvironmentFault(str(_cause(error))) from None
            lines = str(error).strip().splitlines()
            problem = lines[-1] if lines else type(error).__name__
        left = [unit for unit in units if unit.key not in reported and not self.store.has(unit.key)]
        self._account([unit for unit in units if unit not in left], reported, listener, problem)
        if left:
            # A unit that takes its worker down breaks the pipeline. The queue finds out which, and makes the others.
            self._run_tune("outputs", left, listener)

    def _account(self, units: Sequence[Unit], reported: set[str], listener: Listener, problem: str) -> None:
        """Says what became of units whose worker was lost before it could report."""
        self.session.lifeline.check()
        for unit in units:
            if unit.key in reported:
                continue
            if self.store.has(unit.key):
                meta = self.store.meta(unit.key)
                seconds, where = float(meta.get("seconds", 0.0)), str(meta.get("host", ""))
                listener(Outcome(unit.key, unit.name, unit.kind, "done", seconds, where=where))
            else:
                why = problem or "its worker was lost"
                listener(Outcome(unit.key, unit.name, unit.kind, "failed", error=f"lost with its worker: {why}"))

    def close(self) -> None:
        self.session.close()
        scratch = getattr(self, "_scratch", None)
        if scratch:
            scratch.close()


def _answers(queue: Any) -> bool:
    """Whether the queue's actor still lives; it is asked for nothing."""
    import ray

    try:
        ray.get(queue.begin.remote(-1), timeout=30)
    except ray.exceptions.RayActorError:
        return False
    except ray.exceptions.GetTimeoutError:
        pass
    return True


def _cause(error: BaseException) -> BaseException:
    """Returns the exception that a Ray task error carries, or the error itself."""
    current: BaseException = error
    for _ in range(5):
        inner = getattr(current, "cause", None) or current.__cause__
        if not isinstance(inner, BaseException):
            break
        current = inner
    return current
