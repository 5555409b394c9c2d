"""Candidates of the distributed shadow attack as Ray Tune trials, compared by validation F1.

The workers of Ray Train stay, with the table that they have read and binned once: a trial says which candidate it wants, and
they train it. So trying one costs its trees, not a reading, and whatever chooses trials in Tune chooses for them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ray
from ray import tune

from attack.attacks.xgboost import CONSTANT, FittedXGBoost, XGBoostAttack
from attack.metrics.roc import best_f1

from .exchange import POLL_SECONDS

METRIC = "validation_f1"


class CandidateTrainable(tune.Trainable):
    """Has one candidate trained, and reports its validation F1."""

    def setup(
        self, config: dict[str, Any], *, exchange: Any = None, attacks: Sequence[Any] = (), label_classes: int = 0
    ) -> None:
        self._exchange, self._attacks, self._label_classes = exchange, attacks, label_classes
        self._number = config["candidate"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        # Without this method an actor cannot be reused: Tune would wait for ever.
        self._number = new_config["candidate"]
        return True

    def step(self) -> dict[str, Any]:
        fitted = have_trained(self._exchange, self._number, self._attacks[self._number], self._label_classes)
        ray.get(self._exchange.keep.remote(self._number, fitted))
        return {METRIC: fitted.validation_f1, "trees": fitted.booster.num_boosted_rounds(), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None  # a candidate is one step

    def load_checkpoint(self, checkpoint: Any) -> None:
        return None


def have_trained(exchange: Any, number: int, attack: XGBoostAttack, label_classes: int) -> FittedXGBoost:
    """Asks the workers for candidate `number`, waits for it and puts it together.

    **Raises:** `RuntimeError` where the workers have failed, `ValueError` where their rows give no threshold.
    """
    ray.get(exchange.want.remote(number, attack))
    while (parts := ray.get(exchange.parts.remote(number))) is None:
        time.sleep(POLL_SECONDS)
    if isinstance(parts, str):
        raise RuntimeError(parts)
    return assemble(attack, label_classes, parts)


class _Tell(tune.Callback):
    """Fetches each candidate as its trial ends. Tune pickles callbacks; what they tell stays out of that."""

    def __init__(self, tell: Callable[[int], None]):
        self._tell: Callable[[int], None] | None = tell

    def __getstate__(self) -> dict[str, Any]:
        return {"_tell": None}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if self._tell is not None:
            self._tell(trial.config["candidate"])


def try_candidates(
    exchange: Any,
    attacks: Sequence[XGBoostAttack],
    label_classes: int,
    storage: str,
    max_failures: int,
    on_fitted: Callable[[int, FittedXGBoost], None] | None,
) -> list[FittedXGBoost]:
    """Runs a trial for each of `attacks`, one after another, and returns what was fitted, in their order.

    One alone is no search: it is asked for here, without Tune.

    **Arguments:** `exchange`: an actor of `Exchange`, whose workers are being started. `storage`: folder for Tune's files. `on_fitted`: told of each
    attack, by its number, as soon as it is fitted.

    **Raises:** `RuntimeError` or `ValueError` with the words of the first trial that failed.
    """
    from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig

    if len(attacks) == 1:
        fitted = have_trained(exchange, 0, attacks[0], label_classes)
        if on_fitted is not None:
            on_fitted(0, fitted)
        return [fitted]
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # importing it has set it up anew
    found: dict[int, FittedXGBoost] = {}
    faults: list[Exception] = []

    def fetch(number: int) -> None:
        try:
            found[number] = ray.get(exchange.take.remote(number))
            if on_fitted is not None:
                on_fitted(number, found[number])
        except Exception as error:  # Tune would turn the listener's own fault into its own
            faults.append(error)

    parameters = tune.with_parameters(
        CandidateTrainable, exchange=exchange, attacks=list(attacks), label_classes=label_classes
    )
    tuner = tune.Tuner(
        # It waits for the workers, who have the CPUs; Tune refuses a trial that asks for nothing at all.
        tune.with_resources(parameters, {"memory": 1}),
        param_space={"candidate": tune.grid_search(list(range(len(attacks))))},
        tune_config=TuneConfig(metric=METRIC, mode="max", reuse_actors=True, max_concurrent_trials=1),
        run_config=RunConfig(
            name="candidates",
            storage_path=storage,
            callbacks=[_Tell(fetch)],
            failure_config=FailureConfig(max_failures=max_failures),
            checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            verbose=0,
        ),
    )
    with contextlib.redirect_stdout(io.StringIO()):
        results = tuner.fit()
    if faults:
        raise faults[0]
    errors = [error for error in (results[i].error for i in range(len(results))) if error is not None]
    if errors:
        raise getattr(errors[0], "cause", None) or errors[0]  # Ray wraps what a trial raised
    return [found[number] for number in range(len(attacks))]


def assemble(attack: XGBoostAttack, label_classes: int, parts: dict[int, dict[str, Any]]) -> FittedXGBoost:
    """Puts together what the workers handed back: the trees, and the validation scores that give the threshold."""
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(bytearray(parts[0]["model"]))
    ranks = [parts[rank] for rank in sorted(parts)]
    labels = np.concatenate([rank["labels"] for rank in ranks])
    scores = np.concatenate([rank["scores"] for rank in ranks]).astype(np.float64)
    lowest = np.min([rank["lowest"] for rank in ranks], axis=0)
    highest = np.max([rank["highest"] for rank in ranks], axis=0)
    notes = [] if (highest > lowest).any() else [CONSTANT]
    external = sum(bool(rank["external"]) for rank in ranks)
    if external:
        notes.append(f"{external} of {len(ranks)} workers paged their data from disk")
    if ranks[0]["share"] < 1.0:
        notes.append(f"fitted on a random {ranks[0]['share']:.2%} of the rows, as many as the workers were to hold")
    for role, value in (("original", 1), ("retrained", 0)):
        if not (labels == value).any():
            raise ValueError(
                f"role: no {role!r} rows in fold 'validation'; the shadow attack needs models of both roles there"
            )
    threshold, f1 = best_f1(labels.astype(np.float64), scores)
    return FittedXGBoost(attack, booster, label_classes, threshold, f1, notes)
