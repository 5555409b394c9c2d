"""What is said of one attack on one method's models: the same words, measures and curves whoever
asks, an audit or a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..attacks.base import Fitted
from ..attacks.registry import ATTACKS
from ..metrics.evaluation import Evaluation, Scores, evaluate
from ..metrics.roc import best_f1
from ..metrics.row import PRIMARY

CURVE_POINTS = (
    # half of them evenly along the FPR, half by equal factors, for a log-log figure down to one in
    # a million
    400
)
CORNER_POINTS = 100  # of the corner of very low FPR all points are kept, for the same figure
CONFIDENCE_BINS = 40


def judged(
    name: str, positive: Scores, negative: Scores, *, threshold: float | None, seed: int, bootstrap: int = 2000
) -> tuple[Evaluation, dict[str, dict[str, Any]]]:
    """Returns how well the attack `name` tells two groups of models apart, and its curves: `roc`
    and `confidence`.

    **Arguments:** as of `evaluate`.
    """
    evaluation = evaluate(
        positive,
        negative,
        threshold=threshold,
        seed=seed,
        bootstrap=bootstrap,
    )
    return evaluation, curves(evaluation, positive, negative, probabilities=name == PRIMARY)


def tuned_threshold(
    name: str, fitted: Fitted, members: int, others: int, scores: Callable[[], Sequence[np.ndarray]]
) -> tuple[float | None, list[str]]:
    """Returns the attacker's own threshold; where it has none, the one with the best F1 on models
    of the validation fold.

    Attacks for each sample leave the model that they score out of their references, so those models
    may be scored too.

    **Arguments:** `members`, `others`: how many validation models there are on each side. `scores`:
    returns the scores of the rows of both; called only where they are needed.

    **Returns:** the threshold, None where there is none to be had, and notes that say why.
    """
    if fitted.threshold is not None or ATTACKS[name].reads != "confidences":
        return fitted.threshold, []
    if not members or not others:
        return None, []
    try:
        values = scores()
    except ValueError as error:  # with one of so few references left out, too few are left
        return None, [f"no threshold, so no precision and recall: {error}"]
    return best_f1(np.repeat([1.0, 0.0], [len(v) for v in values]), np.concatenate(values))[0], []


def curves(
    evaluation: Evaluation, positive: Scores, negative: Scores, probabilities: bool
) -> dict[str, dict[str, Any]]:
    """Returns the ROC, thinned out for drawing, and histograms of the scores of both sides.

    **Arguments:** `probabilities`: scores lie in [0, 1], so that histograms of all rows share their
    bins.
    """
    curve = evaluation.roc
    keep = _drawn(curve.fpr)
    both = np.concatenate([positive.scores, negative.scores])
    finite = both[np.isfinite(both)]
    low, high = (0.0, 1.0) if probabilities or not len(finite) else (float(finite.min()), float(finite.max()))
    edges = np.linspace(low, high if high > low else low + 1.0, CONFIDENCE_BINS + 1)
    return {
        "roc": {"fpr": curve.fpr[keep].tolist(), "tpr": curve.tpr[keep].tolist()},
        "confidence": {
            "edges": edges.tolist(),
            "unlearned": np.histogram(positive.scores, edges)[0].tolist(),
            "retrained": np.histogram(negative.scores, edges)[0].tolist(),
        },
    }


def _drawn(fpr: np.ndarray) -> np.ndarray:
    """Returns the points of a ROC to keep for drawing, as indices: its ends, and what both linear
    and log-log axes need."""
    last = len(fpr) - 1
    if last < CURVE_POINTS:
        return np.arange(last + 1)
    # the least rate above 0: there is one, since a curve ends at 1
    rare = fpr[np.searchsorted(fpr, 0.0, side="right")]
    rates = np.concatenate([np.linspace(0.0, 1.0, CURVE_POINTS // 2), np.geomspace(rare, 1.0, CURVE_POINTS // 2)])
    # The last point at or below a rate has the best TPR there.
    at = np.searchsorted(fpr, rates, side="right") - 1
    return np.unique(np.concatenate([[0, last], at, np.arange(min(CORNER_POINTS, last + 1))]))
