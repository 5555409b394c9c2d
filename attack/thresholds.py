"""The simplest baselines: one number a row, cut at one threshold for all samples (Yeom et al. 2018; Song & Mittal 2021)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa

from .metrics import best_f1
from .outputs import entropy, finite_logits, log_confidence, own_columns
from .xgboost_attack import membership, shadow_rows


@dataclass(frozen=True)
class LossThreshold:
    """Members have a lower cross-entropy: the score is log p_y."""

    name: ClassVar[str] = "loss_threshold"
    per_method: ClassVar[bool] = False

    def values(self, outputs: pa.Table) -> np.ndarray:
        """Returns log p_y of each row."""
        return log_confidence(finite_logits(outputs), own_columns(outputs, self.name))

    def fit(self, outputs: pa.Table) -> FittedThreshold:
        """Finds the threshold with the best F1 on the validation fold."""
        return _fit(self, outputs)


@dataclass(frozen=True)
class EntropyThreshold:
    """Members have a sharper output: the score is minus the entropy. It needs no label."""

    name: ClassVar[str] = "entropy_threshold"
    per_method: ClassVar[bool] = False

    def values(self, outputs: pa.Table) -> np.ndarray:
        """Returns minus the entropy of each row, in nats."""
        return -entropy(finite_logits(outputs))

    def fit(self, outputs: pa.Table) -> FittedThreshold:
        """Finds the threshold with the best F1 on the validation fold."""
        return _fit(self, outputs)


@dataclass(frozen=True)
class FittedThreshold:
    """A threshold on a score that needs no fitting itself."""

    attack: LossThreshold | EntropyThreshold
    threshold: float
    validation_f1: float
    notes: list[str] = field(default_factory=list)

    def score(self, outputs: pa.Table) -> np.ndarray:
        """Returns the score of each row, float64 `(rows,)`, higher = member."""
        return self.attack.values(outputs)


def _fit(attack: LossThreshold | EntropyThreshold, outputs: pa.Table) -> FittedThreshold:
    table = shadow_rows(outputs, "validation")
    scores = attack.values(table)
    labels = membership(table)
    notes = []
    if len(scores) and (scores == scores[0]).all():
        notes.append("every score is the same: the attack saw nothing and its AUC means nothing")
    return FittedThreshold(attack, *best_f1(labels, scores), notes)
