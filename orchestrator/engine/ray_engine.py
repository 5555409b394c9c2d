"""Units on Ray: Tune trials for training, unlearning and attackers; a Ray Data pipeline for logits.

The stages follow each other and are never nested: Data pipelines inside trials that hold every CPU would wait for ever.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import shutil
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data import ExperimentData
from ..errors import EnvironmentFault
from ..execute import commit_unit, default_threads
from ..options import build
from ..recipe import Resources
from ..scoring import save_fitted
from ..store import Store
from ..streaming_attack import choose_path, fit_all_distributed
from ..units import Outcome, Unit
from .base import Listener
from .chunks import make_chunks
from .session import RaySession


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
    ):
        """**Arguments:** `outputs_folder`: where `outputs/*.parquet` lie; the distributed attacker reads them from every node."""
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
            self.slots = self._slots()
        except EnvironmentFault:
            self.close()
            raise
        self._arrays = data.to_arrays()
        self._shared = self.session.ray.put(self._arrays)
        self._scratch = tempfile.mkdtemp(prefix="orc-tune-")

    def _slots(self) -> int:
        """Returns how many units fit at once; refuses what could never run."""
        needed = self.resources
        cpus, gpus = self.session.cpus(), self.session.gpus()
        if needed.gpus_per_unit > gpus:
            raise EnvironmentFault(
                f"resources.gpus_per_unit: {needed.gpus_per_unit:g}: the cluster has {gpus:g} GPUs; use --set resources.gpus_per_unit=0 for CPU"
            )
        if needed.cpus_per_unit > cpus:
            raise EnvironmentFault(
                f"resources.cpus_per_unit: {needed.cpus_per_unit:g}: the cluster has {cpus:g} CPUs; use at most --set resources.cpus_per_unit={cpus:g}"
            )
        slots = math.floor(cpus / needed.cpus_per_unit)
        if needed.gpus_per_unit:
            slots = min(slots, math.floor(gpus / needed.gpus_per_unit))
        return max(1, min(slots, needed.concurrency or slots))

    def describe(self) -> str:
        where = "local Ray" if self.session.started_here else "Ray cluster"
        gpus = f", {self.session.gpus():g} GPUs" if self.session.gpus() else ""
        nodes = self.session.nodes()
        return f"{where}: {nodes} node{'s' if nodes != 1 else ''}, {self.session.cpus():g} CPUs{gpus}, {self.slots} units at once"

    def run(self, stage: str, units: Sequence[Unit], listener: Listener) -> None:
        if stage == "outputs":
            self._run_data(units, listener)
        elif stage == "attack" and self._attacker_path(units) == "distributed":
            self._run_distributed_attacks(units, listener)
        else:
            self._run_tune(stage, units, listener)

    def _attacker_rows(self, unit: Unit) -> int:
        return sum(int(self.store.meta(entry[0])["rows"]) for entry in unit.spec["outputs"])

    def _attacker_path(self, units: Sequence[Unit]) -> str:
        rows = max((self._attacker_rows(unit) for unit in units), default=0)
        return choose_path(rows, self.resources.distributed_rows)

    def _run_distributed_attacks(self, units: Sequence[Unit], listener: Listener) -> None:
        """Fits all candidates on many workers, from one reading of the table; Ray Train is never nested in Tune's trials."""
        from attack import ATTACKS

        paths = [self.outputs_folder / f"{role}.parquet" for role in ("original", "retrained")]
        groups: dict[tuple[Any, ...], list[Unit]] = {}
        attacks = {unit.key: build(ATTACKS[unit.spec["attack"]], unit.spec["params"]) for unit in units}
        for unit in units:
            groups.setdefault((attacks[unit.key].label, attacks[unit.key].forget_classes), []).append(unit)
        for group in groups.values():
            self._fit_group(paths, group, [attacks[unit.key] for unit in group], listener)

    def _fit_group(
        self, paths: Sequence[Path], units: Sequence[Unit], attacks: Sequence[Any], listener: Listener
    ) -> None:
        """Fits candidates that share their features; each is committed as soon as it is there."""
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
                num_workers=max(2, self.slots // 2),
                resources_per_worker={"CPU": self.resources.cpus_per_unit / 2},
                on_fitted=commit,
            )
        except (RuntimeError, ValueError, OSError) as error:
            seconds = time.perf_counter() - started
            line = f"{type(error).__name__}: {error}".splitlines()[0]
            for unit in units:
                if unit.key not in done:
                    listener(Outcome(unit.key, unit.name, unit.kind, "failed", seconds, line, traceback.format_exc()))

    def _run_tune(self, stage: str, units: Sequence[Unit], listener: Listener) -> None:
        from ray import tune
        from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig

        from .trainable import OutcomeCallback, UnitTrainable

        reported: set[str] = set()
        chunks = make_chunks(units, self.slots, self.resources.units_per_trial)
        needed = {"cpu": self.resources.cpus_per_unit, "gpu": 0 if stage == "attack" else self.resources.gpus_per_unit}
        trainable = tune.with_resources(
            tune.with_parameters(
                UnitTrainable, store_uri=self.store.uri, arrays=self._arrays, chunks=chunks, options=self.options
            ),
            needed,
        )
        tuner = tune.Tuner(
            trainable,
            param_space={"chunk": tune.grid_search(list(range(len(chunks))))},
            tune_config=TuneConfig(reuse_actors=True, max_concurrent_trials=self.resources.concurrency or None),
            run_config=RunConfig(
                name=stage,
                storage_path=self._scratch,
                callbacks=[OutcomeCallback(listener, reported)],
                failure_config=FailureConfig(max_failures=self.resources.max_retries),
                checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                verbose=0,
            ),
        )
        with contextlib.redirect_stdout(io.StringIO()):
            results = tuner.fit()
        errors = [error for error in (results[i].error for i in range(len(results))) if error is not None]
        environment = next((e for e in errors if isinstance(_cause(e), EnvironmentFault)), None)
        if environment is not None:
            raise EnvironmentFault(str(_cause(environment)))
        self._account(units, reported, listener, str(errors[0]).strip().splitlines()[-1] if errors else "")

    def _run_data(self, units: Sequence[Unit], listener: Listener) -> None:
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        from .trainable import OutputsActor, outcome_from

        logging.getLogger("ray.data").setLevel(logging.ERROR)  # importing ray.data sets it up anew
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        reported: set[str] = set()
        # Half a unit's CPUs each: actors and Ray Data's own tasks must fit side by side even on two cores.
        actors = max(1, min(self.slots, len(units)))
        ordered = sorted(units, key=lambda unit: -unit.cost)
        # As bytes: Ray warns of references among the arguments of an actor that it may restart. The driver keeps both alive.
        references = [self._shared, ray.put(ordered)]
        shared = ray.cloudpickle.dumps(references)
        rows = ray.data.from_items([{"index": i} for i in range(len(ordered))], override_num_blocks=len(ordered))
        outcomes = rows.map_batches(
            OutputsActor,
            batch_size=1,
            compute=ActorPoolStrategy(size=actors),
            num_cpus=self.resources.cpus_per_unit / 2,
            num_gpus=self.resources.gpus_per_unit or None,
            fn_constructor_kwargs={"store_uri": self.store.uri, "shared": shared, "options": self.options},
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
        self._account(units, reported, listener, problem)

    def _account(self, units: Sequence[Unit], reported: set[str], listener: Listener, problem: str) -> None:
        """Says what became of units whose worker was lost before it could report."""
        for unit in units:
            if unit.key in reported:
                continue
            if self.store.has(unit.key):
                listener(
                    Outcome(
                        unit.key, unit.name, unit.kind, "done", float(self.store.meta(unit.key).get("seconds", 0.0))
                    )
                )
            else:
                why = problem or "its worker was lost"
                listener(Outcome(unit.key, unit.name, unit.kind, "failed", error=f"lost with its worker: {why}"))

    def close(self) -> None:
        self.session.close()
        scratch = getattr(self, "_scratch", None)
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _cause(error: BaseException) -> BaseException:
    """Returns the exception that a Ray task error carries, or the error itself."""
    current: BaseException = error
    for _ in range(5):
        inner = getattr(current, "cause", None) or current.__cause__
        if not isinstance(inner, BaseException):
            break
        current = inner
    return current
