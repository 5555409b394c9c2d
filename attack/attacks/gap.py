"""The gap attack: a label-only baseline (Yeom et al. 2018, arXiv 1709.01604, section 3.2).

The name is that of Choquette-Choo et al. 2021, arXiv 2007.14321.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..outputs.table import finite_logits, label_columns, rows_where
from .base import FITTED_FOLDS, Attack, Fitted

LIMITS = (
    "label only: it sees no confidence, only whether the class is right. It finds samples that a model gets wrong "
    "without having been trained on them, and no others"
)


@dataclass(frozen=True)
class Gap(Attack):
    """A sample is called a member where its class is predicted rightly: the score is 1 or 0.

    It needs no shadow models and no confidences. Its AUC is ½ + (accuracy on members − accuracy on
    others) / 2. Attacks that ask for labels of changed images see more; they cannot be made from
    stored outputs.
    """

    name = "gap"
    learns = False

    def fit(self, outputs: pa.Table) -> FittedGap:
        """There is nothing to learn.

        **Raises:** `ValueError` where a logit of the train and validation folds is not finite.
        """
        finite_logits(rows_where(outputs, fold=FITTED_FOLDS))
        return FittedGap(self)


@dataclass(frozen=True)
class FittedGap(Fitted):
    """Right or wrong."""

    attack: Gap
    threshold: float = 0.5
    notes: tuple[str, ...] = (LIMITS,)

    def score(self, outputs: pa.Table) -> np.ndarray:
        """Returns 1 where the largest logit is the label's, else 0; float64 `(rows,)`.

        **Raises:** `ValueError` where a label's class was dropped from the logits.
        """
        logits, columns = finite_logits(outputs), label_columns(outputs)
        if len(columns) and columns.min() < 0:
            raise ValueError(f"{Gap.name}: the label's own logit is needed, but some classes were dropped")
        return (logits.argmax(axis=1) == columns).astype(np.float64) if len(columns) else np.empty(0)
