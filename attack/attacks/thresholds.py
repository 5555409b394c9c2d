"""The simplest baselines: one number a row, cut at one threshold for all samples (Yeom et al. 2018;
Song & Mittal 2021)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from ..metrics.roc import best_f1
from ..outputs.confidence import log_confidence
from ..outputs.measured import Measured
from .base import Attack, Fitted, Needs

VALIDATION = "validation"  # the fold that thresholds are tuned on


class _Threshold(Attack):
    """An attack whose score needs no fitting; only its threshold does."""

    reads = "confidences"
    needs: ClassVar[Needs] = {("original", VALIDATION): 1, ("retrained", VALIDATION): 1}
    needed: ClassVar[Literal["phi", "entropy"]] = "phi"

    @abstractmethod
    def values(self, outputs: pa.Table | Measured) -> np.ndarray:
        """Returns the score of each row, float64 `(rows,)`, higher = member."""

    def fit(self, outputs: pa.Table | Measured) -> FittedThreshold:
        """Finds the threshold with the best F1 on the validation fold.

        **Raises:** `ValueError` where a role has no model there.
        """
        roles = ("original", "retrained")
        measured = Measured.of(outputs, self.needed, role=roles, fold=VALIDATION)
        members, others = (self.values(validation(measured, role)) for role in roles)
        for role, values in (("original", members), ("retrained", others)):
            if not len(values):
                raise ValueError(
                    f"role: no {role!r} rows in fold 'validation'; {self.name} needs models of both roles there"
                )
        scores = np.concatenate([members, others])
        notes = []
        if (scores == scores[0]).all():
            notes.append("every score is the same: the attack saw nothing and its AUC means nothing")
        labels = np.repeat([1.0, 0.0], [len(members), len(others)])
        return FittedThreshold(self, *best_f1(labels, scores), notes)


def validation(measured: Measured, role: str) -> Measured:
    """Returns the validation fold's models of a role."""
    return measured.only(measured.where(role=role, fold=VALIDATION))


@dataclass(frozen=True)
class LossThreshold(_Threshold):
    """Members have a lower cross-entropy: the score is log p_y."""

    name = "loss_threshold"

    def values(self, outputs: pa.Table | Measured) -> np.ndarray:
        """Returns log p_y of each row."""
        measured = Measured.of(outputs, self.needed)
        return log_confidence(measured.in_rows(measured.margins(self.name)))


@dataclass(frozen=True)
class EntropyThreshold(_Threshold):
    """Members have a sharper output: the score is minus the entropy. It needs no label."""

    name = "entropy_threshold"
    reads_label = False
    needed = "entropy"
    # confidently wrong outputs are as sharp as members': it does not know the label
    directed = False

    def values(self, outputs: pa.Table | Measured) -> np.ndarray:
        """Returns minus the entropy of each row, in nats."""
        measured = Measured.of(outputs, self.needed)
        return measured.in_rows(-measured.entropy)


@dataclass(frozen=True)
class FittedThreshold(Fitted):
    """A threshold on a score that needs no fitting itself."""

    attack: _Threshold
    threshold: float
    validation_f1: float
    notes: list[str]

    def score(self, outputs: pa.Table | Measured) -> np.ndarray:
        """Returns the score of each row, float64 `(rows,)`, higher = member."""
        return self.attack.values(outputs)
