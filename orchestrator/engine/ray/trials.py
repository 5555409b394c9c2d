"""The one driver of Ray Tune trials: units, settings of a search and candidates of an attacker use
it.

A trial is a number and its results live elsewhere, in the store or with an actor. So Tune keeps no
checkpoints for us: it schedules, starts lost workers again, and stops what falls behind.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from ray import tune
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig
from ray.tune.execution.placement_groups import resource_dict_to_pg_factory
from ray.tune.schedulers import TrialScheduler

from ...base.errors import EnvironmentFault
from ...base.scratch import ScratchFolder

Report = TypeVar("Report", contravariant=True)

TRIAL, REPORT = "trial", "report"
SAME_FAILURES = 2  # so often may workers fail in one way before we give up


class Trial(tune.Trainable):
    """A Tune trainable without checkpoints, whose actor is used for one trial after another."""

    def begin(self, trial: int) -> None:
        """Prepares for trial number `trial`; called in `setup` and whenever the actor gets another
        trial.
        """
        raise NotImplementedError

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        # Without this method Tune cannot use an actor again, and would wait for ever.
        self.begin(int(new_config[TRIAL]))
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None

    def load_checkpoint(self, checkpoint: Any) -> None:
        return None


class TrialListener(Protocol[Report]):
    """Told in the driver what becomes of trials, by number. What it raises ends all trials."""

    def reported(self, trial: int, report: Report, node: str) -> None:
        """A step of a trial has ended on the node with the address `node`."""
        ...

    def lost(self, trial: int) -> None:
        """A trial has lost its worker, and waits for another one."""
        ...

    def ended(self, trial: int, problem: str) -> None:
        """A trial has ended: by itself or by its scheduler, or in failure where `problem` is not
        empty.
        """
        ...


@dataclass(frozen=True)
class Trials(Generic[Report]):
    """Trials to run.

    **Arguments:**

    - `trainable`, `parameters`: a `Trial` and the keywords of its `setup`.
    - `count`: how many trials there are.
    - `needs`: trial → what it asks of Tune, such as `{"cpu": 1}`.
    - `max_failures`: how often Tune starts a trial again after it failed.
    - `own_failures`: whether a step may raise for a reason of its trial alone. If not, two steps
        that fail in the same way end all trials. Two failures to start a worker always do.
    - `concurrency`: how many run at once; None: as many as fit.
    - `metric`, `mode`, `scheduler`: how trials are compared and stopped, where they are.
    - `enough`: whether what was reported is all that is wanted, so that the other trials need not
      run.
    """

    name: str
    trainable: type[Trial]
    parameters: Mapping[str, Any]
    count: int
    needs: Callable[[int], Mapping[str, float]]
    listener: TrialListener[Report]
    max_failures: int
    own_failures: bool = True
    concurrency: int | None = None
    metric: str | None = None
    mode: str | None = None
    scheduler: TrialScheduler | None = None
    enough: Callable[[], bool] = lambda: False

    def run(self) -> list[Exception]:
        """Runs the trials to their end and returns the errors of those that failed.

        **Raises:** what the listener raised; `WorkersFail` where workers fail twice in the same
        way.
        """
        # Importing ray.tune sets its logger up anew. We report failures ourselves, once.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        observer: _Observer[Report] = _Observer(self)
        needs = self.needs  # alone: Tune pickles the function that it is given
        scratch = ScratchFolder("orc-tune-", Path(tempfile.gettempdir()))
        try:
            tuner = tune.Tuner(
                tune.with_resources(
                    tune.with_parameters(self.trainable, **self.parameters),
                    lambda config: resource_dict_to_pg_factory(dict(needs(config[TRIAL]))),
                ),
                param_space={TRIAL: tune.grid_search(list(range(self.count)))},
                tune_config=TuneConfig(
                    metric=self.metric,
                    mode=self.mode,
                    scheduler=self.scheduler,
                    reuse_actors=True,
                    max_concurrent_trials=self.concurrency,
                ),
                run_config=RunConfig(
                    name=self.name,
                    storage_path=str(scratch.path),
                    stop=observer,
                    callbacks=[observer],
                    failure_config=FailureConfig(max_failures=self.max_failures),
                    checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                    verbose=0,
                ),
            )
            with contextlib.redirect_stdout(io.StringIO()):
                results = tuner.fit()
        finally:
            scratch.close()
        if observer.faults:
            raise observer.faults[0]
        return [error for error in (results[i].error for i in range(len(results))) if error is not None]


class WorkersFail(EnvironmentFault):
    """Workers fail in the same way again and again, so no trial can succeed."""


class _Observer(tune.Callback, tune.Stopper, Generic[Report]):
    """Passes on what Tune says of the trials, and tells Tune when to stop. Tune pickles it, so a
    copy is empty.
    """

    def __init__(self, trials: Trials[Report]):
        self._trials = trials
        self._failures: Counter[str] = Counter()
        self.faults: list[Exception] = []

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def _tell(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:  # Tune would make its own error of it, with a traceback as text
            self.faults.append(error)

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        number, node = trial.config[TRIAL], str(result.get("node_ip", ""))
        self._tell(lambda: self._trials.listener.reported(number, result[REPORT], node))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._tell(lambda: self._trials.listener.ended(trial.config[TRIAL], ""))

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._tell(lambda: self._trials.listener.lost(trial.config[TRIAL]))
        reason = failure(trial.get_pickled_error(), starting=self._trials.own_failures)
        self._failures[reason] += 1
        if reason and self._failures[reason] == SAME_FAILURES:
            self.faults.append(WorkersFail(f"workers fail in the same way again and again: {reason}"))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        lines = str(trial.get_error() or "").strip().splitlines()
        problem = lines[-1] if lines else "its worker was lost"
        self._tell(lambda: self._trials.listener.ended(trial.config[TRIAL], problem))

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return bool(self.faults) or self._trials.enough()


def failure(error: BaseException | None, *, starting: bool) -> str:
    """Returns the last line of what a trial raised; empty where its process died or the storage was
    away.

    **Arguments:** `starting`: look at failures to start a worker only.
    """
    inner = cause(error) if error is not None else None
    if inner is None or isinstance(inner, EnvironmentFault):
        return ""
    if isinstance(inner, RayActorError):
        # Ray gives the error of a constructor as text alone.
        if not inner.actor_init_failed or "EnvironmentFault" in str(inner):
            return ""
    elif starting or not isinstance(error, RayTaskError):
        return ""
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return lines[-1] if lines else type(inner).__name__


def cause(error: BaseException) -> BaseException:
    """Returns the exception that Ray wrapped, or the error itself."""
    current = error
    while isinstance(current, RayError):
        inner = current.cause if isinstance(current, RayTaskError) else current.__cause__
        if not isinstance(inner, BaseException):
            break
        current = inner
    return current
