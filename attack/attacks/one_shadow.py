"""One shadow model: the loss, calibrated by how hard each sample is (Watson et al. 2022, arXiv
2111.08440)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from ..outputs.confidence import log_confidence
from ..outputs.measured import FOLD, MODEL_ID, Measured
from .base import FITTED, FITTED_FOLDS, Attack, Fitted, Needs

LIMITS = (
    "one shadow model: how hard a sample is, is known from a single model. Its luck is in every score, so samples one "
    "by one are told less surely than by attacks with many models"
)


@dataclass(frozen=True)
class OneShadow(Attack):
    """Members have a lower loss than a model that never saw them: the score is
    log p_y(x|θ) − log p_y(x|θ′).

    θ′ is the first retrained model of the train fold by id, else of the validation fold. For those
    who can train one model only; the same model serves every sample.
    """

    name = "one_shadow"
    reads = "confidences"
    needs: ClassVar[Needs] = {("retrained", FITTED): 1}

    def fit(self, outputs: pa.Table | Measured) -> FittedOneShadow:
        """Takes the shadow model.

        **Raises:** `ValueError` where there is no retrained model in the train and validation
        folds, or it lacks samples.
        """
        measured = Measured.of(outputs, role=("retrained",), fold=FITTED_FOLDS)
        measured = measured.only(measured.where(role="retrained", fold=FITTED_FOLDS))
        if not measured.models:
            raise ValueError(f"role: 0 retrained models in folds train and validation; {self.name} needs 1 there")
        order = sorted(
            range(len(measured.models)),
            key=lambda m: (FITTED_FOLDS.index(measured.models[m][FOLD]), measured.models[m][MODEL_ID]),
        )
        shadow = measured.only(np.asarray(order[:1]))
        margins = shadow.margins(self.name)[0]
        if np.isnan(margins).any():
            raise ValueError(f"sample_id: the shadow model {shadow.models[0][MODEL_ID]!r} lacks samples of others")
        return FittedOneShadow(self, measured.samples, log_confidence(margins))


@dataclass(frozen=True)
class FittedOneShadow(Fitted):
    """The shadow model's log p_y: `samples` int64 `(S,)`, `values` float64 `(S,)`."""

    attack: OneShadow
    samples: np.ndarray
    values: np.ndarray
    notes: tuple[str, ...] = (LIMITS,)

    def score(self, outputs: pa.Table | Measured) -> np.ndarray:
        """Returns log p_y under the model less that under the shadow model, float64 `(rows,)`."""
        measured = Measured.of(outputs)
        if len(measured) == 0:
            return np.empty(0)
        margins = measured.margins(OneShadow.name)
        shadow = np.broadcast_to(self.values[measured.places(self.samples)], margins.shape)
        return log_confidence(measured.in_rows(margins)) - measured.in_rows(shadow)
