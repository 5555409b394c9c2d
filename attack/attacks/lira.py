"""LiRA: a likelihood-ratio attack for each sample (Carlini et al. 2022, arXiv 2112.03570)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import pyarrow as pa

from ..metrics.gaussians import VARIANCES, settled_variance
from ..outputs.measured import Measured
from ..settings import check_choice
from .base import FITTED, FITTED_FOLDS, Attack, Needs
from .references import FittedLikelihoodRatio, fit_likelihood_ratio


@dataclass(frozen=True)
class LiRA(Attack):
    """Per sample, Gaussians of φ over models trained with it (originals) and without it
    (retrained).

    **Arguments:**

    - `mode`: `online` scores by the log-likelihood ratio; `offline` by the one-sided tail of the
        OUT Gaussian.
    - `variance`: `per_sample`, `fixed` (one within-sample variance a side, for few models), or
        `auto`: per sample where both sides have 32 models or more, else fixed.

    Models of the test fold are never fitted on.
    """

    name = "lira"
    reads = "confidences"
    needs: ClassVar[Needs] = {("original", FITTED): 2, ("retrained", FITTED): 2}

    mode: str = "online"
    variance: str = "auto"

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("online", "offline"))
        check_choice("variance", self.variance, VARIANCES)

    def settled(self, models: Sequence[int]) -> Self:
        # offline it is fitted on retrained models only, the last side
        sides = models[-1:] if self.mode == "offline" else models
        return replace(self, variance=settled_variance(self.variance, sides))

    def fit(self, outputs: pa.Table | Measured) -> FittedLikelihoodRatio:
        """Fits on originals (IN) and retrained models (OUT) of the train and validation folds.

        **Raises:** `ValueError` where a role has fewer than two models there.
        """
        roles = ("original", "retrained")
        measured = Measured.of(outputs, role=roles, fold=FITTED_FOLDS)
        return fit_likelihood_ratio(measured, self, roles, self.variance, offline=self.mode == "offline")
