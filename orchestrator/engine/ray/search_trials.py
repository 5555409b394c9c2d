"""Settings as Ray Tune trials: a step measures one more model, and ASHA stops settings that fall behind."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ray import tune

from ...base.errors import EnvironmentFault
from ...base.scratch import ScratchFolder
from ...plan.objective import FAILED, objective
from ...plan.search import Setting, bound_of
from ...plan.units import Unit
from ...recipe.sections import Search
from ...store import Store
from ...work.execute import execute
from .engine import RayEngine, _cause
from .worker import worker_context

MEASURED_ERROR = "error_val"


class SearchListener(Protocol):
    """Told what becomes of the settings, by their place in the list."""

    def measured(self, index: int, result: dict[str, Any]) -> None:
        """A step has ended: `outcomes` of its units, and `objective`, `models`, `auc`, … or `failed`."""
        ...

    def ended(self, index: int, problem: str) -> None:
        """The trial has ended, by itself, by ASHA, or for `problem`."""
        ...


def measure(
    store: Store, setting: Setting, references: Sequence[Unit], models: int, bound: float | None
) -> dict[str, Any]:
    """Returns what is known of a setting after `models` of its steps, from the store.

    `auc` and `auc_gap` are fractions; `error` in percent and `error_rise` in points are on the validation half of the test
    images, whose other half is what results report; the rise is the mean over the same models before and after.
    """
    steps = setting.steps[:models]
    auc = float(store.meta(steps[-1].score.key)["metrics"]["auc"])
    errors = [float(store.meta(step.outputs.key)["errors"][MEASURED_ERROR]) for step in steps]
    before = [float(store.meta(unit.key)["errors"][MEASURED_ERROR]) for unit in references[:models]]
    rise = float(np.mean(errors) - np.mean(before))
    gap = abs(auc - 0.5)
    return {
        "models": models,
        "auc": auc,
        "auc_gap": gap,
        "error": float(np.mean(errors)),
        "error_rise": rise,
        "objective": objective(gap, rise, bound),
        "within_bound": bound is None or rise <= bound,
    }


class SettingTrainable(tune.Trainable):
    """Measures one setting, a model a step. All that it makes is in the store, so a trial that starts again loses nothing."""

    def setup(
        self,
        config: dict[str, Any],
        *,
        store_uri: str = "",
        shared: bytes = b"",
        settings: Sequence[Setting] = (),
        references: Sequence[Unit] = (),
        bound: float | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self._context = worker_context(store_uri, shared, options or {})
        self._settings = settings
        self._references = references
        self._bound = bound
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        self._setting = self._settings[config["setting"]]
        self._measured = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        # Without this method an actor cannot be reused: Tune would wait for ever.
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        outcomes: list[dict[str, Any]] = []
        for unit in self._setting.steps[self._measured].units():
            outcome = execute(unit, self._context)
            outcomes.append(dataclasses.asdict(outcome))
            if outcome.failed:
                failed = f"{outcome.name}: {outcome.error}"
                return {"outcomes": outcomes, "failed": failed, "objective": FAILED, "done": True}
        self._measured += 1
        measures = measure(self._context.store, self._setting, self._references, self._measured, self._bound)
        return {"outcomes": outcomes, **measures, "done": self._measured == len(self._setting.steps)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None  # the store is the checkpoint

    def load_checkpoint(self, checkpoint: Any) -> None:
        return None


class _Tell(tune.Callback):
    """Passes what trials report on to the driver. Tune pickles callbacks; the listener stays out of that."""

    def __init__(self, listener: SearchListener):
        self._listener: SearchListener | None = listener

    def __getstate__(self) -> dict[str, Any]:
        return {"_listener": None}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if self._listener is not None:
            self._listener.measured(trial.config["setting"], result)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if self._listener is not None:
            self._listener.ended(trial.config["setting"], "")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if self._listener is not None:
            lines = str(trial.get_error() or "").strip().splitlines()
            self._listener.ended(trial.config["setting"], lines[-1] if lines else "its worker was lost")


def run_settings(
    engine: RayEngine,
    settings: Sequence[Setting],
    references: Sequence[Unit],
    search: Search,
    listener: SearchListener,
) -> None:
    """Runs the settings as trials on the engine's Ray until each is measured on all models, stopped or failed.

    **Arguments:** `references`: outputs of the originals, in the order of the steps; they are in the store.

    **Raises:** `EnvironmentFault` where the store cannot be used. A setting that fails is told to the listener.
    """
    from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig
    from ray.tune.schedulers import ASHAScheduler

    resources = engine.resources
    trainable = tune.with_resources(
        tune.with_parameters(
            SettingTrainable,
            store_uri=engine.store.uri,
            shared=engine.shared,
            settings=list(settings),
            references=list(references),
            bound=bound_of(search),
            options=engine.options,
        ),
        engine.placement.needs("unlearn"),
    )
    scheduler = ASHAScheduler(
        time_attr="training_iteration",
        max_t=len(references),
        grace_period=search.grace,
        reduction_factor=search.reduction,
    )
    scratch = ScratchFolder("orc-tune-", Path(tempfile.gettempdir()))
    try:
        tuner = tune.Tuner(
            trainable,
            param_space={"setting": tune.grid_search(list(range(len(settings))))},
            tune_config=TuneConfig(
                metric="objective",
                mode="min",
                scheduler=scheduler,
                reuse_actors=True,
                max_concurrent_trials=resources.concurrency or None,
            ),
            run_config=RunConfig(
                name="search",
                storage_path=str(scratch.path),
                callbacks=[_Tell(listener)],
                failure_config=FailureConfig(max_failures=resources.max_retries),
                checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                verbose=0,
            ),
        )
        with engine.session.lifeline.guard(), contextlib.redirect_stdout(io.StringIO()):
            results = tuner.fit()
    finally:
        scratch.close()
    errors = [results[i].error for i in range(len(results))]
    environment = next((e for e in errors if e is not None and isinstance(_cause(e), EnvironmentFault)), None)
    if environment is not None:
        raise EnvironmentFault(str(_cause(environment)))
