"""U-LiRA: can unlearned models be told from models that never saw the sample? (Hayes et al. 2024,
arXiv 2403.01218)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import pyarrow as pa

from ..metrics.gaussians import VARIANCES, settled_variance
from ..outputs.measured import Measured
from ..settings import check_choice
from .base import FITTED, FITTED_FOLDS, Attack, Needs
from .references import FittedLikelihoodRatio, fit_likelihood_ratio, single_method


@dataclass(frozen=True)
class ULiRA(Attack):
    """Per sample, Gaussians of φ over unlearned models (IN) and over retrained models (OUT).

    IN models were trained with the sample and unlearned; OUT models never saw it. The pool gives
    both without further training: each original unlearned once, and the retrained models.
    The attack is fitted anew for each method.

    The model under attack is held out of the fit. Models of the test fold are never in it. A model
    of another fold is left out of the Gaussians that score it.

    Retrain has no row of its own here, since none of its models was made by unlearning. Instead
    each method's attacker is asked about Retrain's models too: `u_lira/auc_minus_retrain`.
    A method that forgets exactly has AUC 0.5 and a difference of 0. In the difference the luck of
    the retrained models that both are compared with cancels.

    **Arguments:**

    - `variance`: `per_sample`, `fixed` (one within-sample variance a side, for few models), or
        `auto`: per sample where both sides have 32 models or more, else fixed.
    """

    name = "u_lira"
    reads = "confidences"
    per_method = True
    needs: ClassVar[Needs] = {("unlearned", FITTED): 2, ("retrained", FITTED): 2}
    directed = False  # a high score means "unlearned", by too little or too much forgetting

    variance: str = "auto"

    def __post_init__(self) -> None:
        check_choice("variance", self.variance, VARIANCES)

    def settled(self, models: Sequence[int]) -> Self:
        return replace(self, variance=settled_variance(self.variance, models))

    def fit(self, outputs: pa.Table | Measured) -> FittedLikelihoodRatio:
        """Fits on unlearned (IN) and retrained models (OUT) of the train and validation folds.

        **Raises:** `ValueError` where a role has fewer than two models there, or unlearned rows are
        of several methods.
        """
        measured = single_method(Measured.of(outputs, fold=FITTED_FOLDS), self.name)
        return fit_likelihood_ratio(measured, self, ("unlearned", "retrained"), self.variance)
