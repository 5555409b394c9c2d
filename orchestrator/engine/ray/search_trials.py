"""Settings as Ray Tune trials: a step measures one more model, and ASHA stops settings that fall
behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler

from ...base.errors import EnvironmentFault
from ...plan.objective import FAILED, Measured, objective
from ...plan.search import MEASURED_ERROR, Setting, bound_of
from ...plan.units import Outcome, Unit
from ...recipe.sections import Search
from ...store import Store
from ...work.execute import execute
from ..base import Engine, SettingReport
from .engine import RayEngine
from .trials import REPORT, TRIAL, Trial, TrialListener, Trials, cause
from .worker import WorkerSetup

METRIC = "objective"


def measure(store: Store, setting: Setting, references: Sequence[Unit], models: int, bound: float | None) -> Measured:
    """Returns what is known of a setting after `models` of its steps, from the store.

    Errors are on the validation half of the test images; results report the other half.
    """
    steps = setting.steps[:models]
    auc = float(store.meta(steps[-1].score.key)["metrics"]["auc"])
    errors = [float(store.meta(step.outputs.key)["errors"][MEASURED_ERROR]) for step in steps]
    before = [float(store.meta(unit.key)["errors"][MEASURED_ERROR]) for unit in references[:models]]
    rise = float(np.mean(errors) - np.mean(before))
    gap = abs(auc - 0.5)
    return Measured(
        models=models,
        auc=auc,
        auc_gap=gap,
        error=float(np.mean(errors)),
        error_rise=rise,
        objective=objective(gap, rise, bound),
        within_bound=bound is None or rise <= bound,
    )


class SettingTrial(Trial):
    """Measures one setting, a model a step. All that it makes is in the store, so a trial that
    starts again loses nothing.
    """

    def setup(
        self,
        config: dict[str, Any],
        *,
        setup: WorkerSetup | None = None,
        settings: Sequence[Setting] = (),
        references: Sequence[Unit] = (),
        bound: float | None = None,
    ) -> None:
        assert setup is not None
        self._context = setup.context()
        self._settings = settings
        self._references = references
        self._bound = bound
        self.begin(int(config[TRIAL]))

    def begin(self, trial: int) -> None:
        self._setting = self._settings[trial]
        self._models = 0

    def step(self) -> dict[str, Any]:
        outcomes: list[Outcome] = []
        for unit in self._setting.steps[self._models].units():
            outcomes.append(execute(unit, self._context))
            if outcomes[-1].failed:
                failed = f"{outcomes[-1].name}: {outcomes[-1].error}"
                return {REPORT: SettingReport(tuple(outcomes), failed=failed), METRIC: FAILED, "done": True}
        self._models += 1
        measured = measure(self._context.store, self._setting, self._references, self._models, self._bound)
        done = self._models == len(self._setting.steps)
        return {REPORT: SettingReport(tuple(outcomes), measured), METRIC: measured.objective, "done": done}


def run_settings(
    engine: Engine,
    settings: Sequence[Setting],
    references: Sequence[Unit],
    search: Search,
    listener: TrialListener[SettingReport],
) -> None:
    """Runs the settings as trials on the engine's Ray until each is measured on all models, stopped
    or failed.

    **Arguments:** `references`: outputs of the originals, in the order of the steps; they are in
    the store.

    **Raises:** `EnvironmentFault` where the store cannot be used. The listener is told of settings
    that fail.
    """
    assert isinstance(engine, RayEngine), "a search refuses to run without Ray"
    bound, needs = bound_of(search), engine.placement.needs("unlearn")
    trials = Trials(
        "search",
        SettingTrial,
        {"setup": engine.setup, "settings": list(settings), "references": list(references), "bound": bound},
        len(settings),
        lambda trial: needs,
        listener,
        max_failures=engine.resources.max_retries,
        concurrency=engine.resources.concurrency or None,
        metric=METRIC,
        mode="min",
        scheduler=ASHAScheduler(
            time_attr="training_iteration",
            max_t=len(references),
            grace_period=search.grace,
            reduction_factor=search.reduction,
        ),
    )
    with engine.session.watchdog.guard():
        errors = trials.run()
    for error in map(cause, errors):
        if isinstance(error, EnvironmentFault):
            raise EnvironmentFault(str(error))
