"""Candidates of the distributed shadow attack as Ray Tune trials, compared by validation F1.

The workers of Ray Train stay, with the table that they have read and binned once. A trial asks for
one candidate, so it costs its trees and no reading. Whatever chooses trials in Tune chooses
candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError

from attack.attacks.xgboost import FittedXGBoost, XGBoostAttack

from ..ray.trials import REPORT, TRIAL, Trial, Trials, cause

METRIC = "validation_f1"
GONE = "the attacker's workers are gone"


@dataclass(frozen=True)
class CandidateReport:
    """The number of trees of a candidate that was fitted; Tune itself gets the validation F1."""

    trees: int


class CandidateTrial(Trial):
    """Has one candidate trained, and reports its validation F1."""

    def setup(self, config: dict[str, Any], *, trainer: Any = None, attacks: Sequence[XGBoostAttack] = ()) -> None:
        """**Arguments:** `trainer`: the actor of a `CandidateTrainer`."""
        self._trainer, self._attacks = trainer, attacks
        self.begin(int(config[TRIAL]))

    def begin(self, trial: int) -> None:
        self._number = trial

    def step(self) -> dict[str, Any]:
        fitted: FittedXGBoost = ray.get(self._trainer.train.remote(self._number, self._attacks[self._number]))
        report = CandidateReport(fitted.booster.num_boosted_rounds())
        return {REPORT: report, METRIC: fitted.validation_f1, "done": True}


class _Fetch:
    """Fetches each candidate in the driver as its trial reports."""

    def __init__(self, fetch: Callable[[int], None]):
        self._fetch = fetch

    def reported(self, trial: int, report: CandidateReport, node: str) -> None:
        self._fetch(trial)

    def lost(self, trial: int) -> None:
        return None

    def ended(self, trial: int, problem: str) -> None:
        return None


def try_candidates(
    trainer: Any,
    attacks: Sequence[XGBoostAttack],
    max_failures: int,
    on_fitted: Callable[[int, FittedXGBoost], None] | None,
    gone: Callable[[], bool],
) -> list[FittedXGBoost]:
    """Fits each of `attacks`, one after another, and returns what was fitted in their order.

    Each is a trial of Ray Tune. One alone is no search: we ask for it here, without Tune.

    **Arguments:** `trainer`: the actor of a `CandidateTrainer`, whose workers are being started.
    `on_fitted`: told of each attack, by its number, as soon as it is fitted. `gone`: whether its
    workers have failed.

    **Raises:** `RuntimeError` where the workers are gone; else what the first trial that failed
    raised.
    """
    found: dict[int, FittedXGBoost] = {}

    def fetch(number: int) -> None:
        try:
            found[number] = ray.get(trainer.train.remote(number, attacks[number]))
        except RayActorError:
            raise RuntimeError(GONE) from None
        if on_fitted is not None:
            on_fitted(number, found[number])

    if len(attacks) == 1:
        fetch(0)
        return [found[0]]
    errors = Trials(
        "candidates",
        CandidateTrial,
        {"trainer": trainer, "attacks": list(attacks)},
        len(attacks),
        # The workers have the CPUs, and Tune refuses a trial that asks for nothing.
        lambda trial: {"memory": 1},
        _Fetch(fetch),
        max_failures=max_failures,
        concurrency=1,
        metric=METRIC,
        mode="max",
        enough=gone,
    ).run()
    if errors and not isinstance(first := cause(errors[0]), RayActorError):
        raise first
    if len(found) < len(attacks):
        raise RuntimeError(GONE)
    return [found[number] for number in range(len(attacks))]
