"""The simplest baselines: one number a row, cut at one threshold for all samples (Yeom et al. 2018; Song & Mittal 2021)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa

from ..metrics.roc import best_f1
from ..outputs.confidence import entropies_of, log_confidences_of
from ..outputs.measured import ROLE, Measured
from .base import Attack, Fitted, Needs
from .xgboost import membership, shadow_rows


class _Threshold(Attack):
    """An attack whose score needs no fitting; only its threshold does."""

    reads = "confidences"
    needs: ClassVar[Needs] = {("original", "validation"): 1, ("retrained", "validation"): 1}

    @abstractmethod
    def values(self, outputs: pa.Table | Measured) -> np.ndarray:
        """Returns the score of each row, float64 `(rows,)`, higher = member."""

    def fit(self, outputs: pa.Table | Measured) -> FittedThreshold:
        """Finds the threshold with the best F1 on the validation fold."""
        return _fit(self, outputs)


@dataclass(frozen=True)
class LossThreshold(_Threshold):
    """Members have a lower cross-entropy: the score is log p_y."""

    name = "loss_threshold"

    def values(self, outputs: pa.Table | Measured) -> np.ndarray:
        """Returns log p_y of each row."""
        return log_confidences_of(outputs, self.name)


@dataclass(frozen=True)
class EntropyThreshold(_Threshold):
    """Members have a sharper output: the score is minus the entropy. It needs no label."""

    name = "entropy_threshold"
    reads_label = False
    directed = False  # confidently wrong outputs are as sharp as members': it does not know the label

    def values(self, outputs: pa.Table | Measured) -> np.ndarray:
        """Returns minus the entropy of each row, in nats."""
        return -entropies_of(outputs)


@dataclass(frozen=True)
class FittedThreshold(Fitted):
    """A threshold on a score that needs no fitting itself."""

    attack: _Threshold
    threshold: float
    validation_f1: float
    notes: list[str] = field(default_factory=list)

    def score(self, outputs: pa.Table | Measured) -> np.ndarray:
        """Returns the score of each row, float64 `(rows,)`, higher = member."""
        return self.attack.values(outputs)


def _fit(attack: _Threshold, outputs: pa.Table | Measured) -> FittedThreshold:
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
