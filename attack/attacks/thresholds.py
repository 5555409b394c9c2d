"""The simplest baselines: one number a row, cut at one threshold for all samples (Yeom et al. 2018; Song & Mittal 2021)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa

from ..metrics.roc import best_f1
from ..outputs.confidence import entropies_of, log_confidences_of
from ..outputs.measured import ROLE, Measured
from .xgboost import membership, shadow_rows


@dataclass(frozen=True)
class LossThreshold:
    """Members have a lower cross-entropy: the score is log p_y."""

    name: ClassVar[str] = "loss_threshold"
    reads: ClassVar[str] = "confidences"
    per_method: ClassVar[bool] = False
    reads_label: ClassVar[bool] = True
    directed: ClassVar[bool] = True

    def values(self, outputs: pa.Table | Measured) -> np.ndarray:
        """Returns log p_y of each row."""
        return log_confidences_of(outputs, self.name)

    def fit(self, outputs: pa.Table | Measured) -> FittedThreshold:
        """Finds the threshold with the best F1 on the validation fold."""
        return _fit(self, outputs)


@dataclass(frozen=True)
class EntropyThreshold:
    """Members have a sharper output: the score is minus the entropy. It needs no label."""

    name: ClassVar[str] = "entropy_threshold"
    reads: ClassVar[str] = "confidences"
    per_method: ClassVar[bool] = False
    reads_label: ClassVar[bool] = False
    directed: ClassVar[bool] = False  # confidently wrong outputs are as sharp as members': it does not know the label

    def values(self, outputs: pa.Table | Measured) -> np.ndarray:
        """Returns minus the entropy of each row, in nats."""
        return -entropies_of(outputs)

    def fit(self, outputs: pa.Table | Measured) -> FittedThreshold:
        """Finds the threshold with the best F1 on the validation fold."""
        return _fit(self, outputs)


@dataclass(frozen=True)
class FittedThreshold:
    """A threshold on a score that needs no fitting itself."""

    attack: LossThreshold | EntropyThreshold
    threshold: float
    validation_f1: float
    notes: list[str] = field(default_factory=list)

    def score(self, outputs: pa.Table | Measured) -> np.ndarray:
        """Returns the score of each row, float64 `(rows,)`, higher = member."""
        return self.attack.values(outputs)


def _fit(attack: LossThreshold | EntropyThreshold, outputs: pa.Table | Measured) -> FittedThreshold:
    chosen: pa.Table | Measured
    if isinstance(outputs, Measured):
        chosen = outputs.only(outputs.where(role=("original", "retrained"), fold="validation"))
        labels = np.repeat([float(m[ROLE] == "original") for m in chosen.models], len(chosen.samples))
    else:
        chosen = shadow_rows(outputs, "validation")
        labels = membership(chosen)
    scores = attack.values(chosen)
    notes = []
    if len(scores) and (scores == scores[0]).all():
        notes.append("every score is the same: the attack saw nothing and its AUC means nothing")
    return FittedThreshold(attack, *best_f1(labels, scores), notes)
