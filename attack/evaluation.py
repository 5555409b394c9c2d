"""How well an attack tells a method's models from retrained ones, with intervals bootstrapped over models.

Rows of one model are correlated, so an interval over rows would be far too narrow: models are what is resampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from .metrics import Roc, pair_auc, roc

LOW_FPRS = (0.01, 0.001, 0.0001)
LEVEL = 0.95


@dataclass(frozen=True)
class Scores:
    """Membership scores `(rows,)` float64, higher = member, with the model and the sample that each belongs to."""

    scores: np.ndarray
    model_ids: np.ndarray
    sample_ids: np.ndarray

    def by_model(self) -> list[np.ndarray]:
        """Returns the scores of each model, models in sorted order."""
        return [self.scores[self.model_ids == model] for model in np.unique(self.model_ids)]


@dataclass(frozen=True)
class Evaluation:
    """What an attack achieves: metrics by name (None where not measurable), 95 % intervals, the curve, a verdict in words."""

    metrics: dict[str, Any]
    ci: dict[str, list[float]]
    roc: Roc
    verdict: str
    auc_matrix: np.ndarray = field(repr=False)


def evaluate(
    positive: Scores, negative: Scores, *, threshold: float | None = None, seed: int = 0, bootstrap: int = 2000
) -> Evaluation:
    """Compares members' scores with non-members'.

    **Arguments:**

    - `positive`: rows of the models under test. `negative`: rows of retrained models.
    - `threshold`: the attacker's tuned threshold; None leaves the thresholded metrics out (None).
    - `seed`, `bootstrap`: of the intervals, resampled over models on both sides.

    **Raises:** `ValueError` where a side is empty or a score is NaN.
    """
    for name, side in (("positive", positive), ("negative", negative)):
        if len(side.scores) == 0:
            raise ValueError(f"{name}: no rows to evaluate")
    labels = np.concatenate([np.ones(len(positive.scores)), np.zeros(len(negative.scores))])
    curve = roc(labels, np.concatenate([positive.scores, negative.scores]))
    members, others = positive.by_model(), negative.by_model()
    matrix = np.asarray([[pair_auc(a, b) for b in others] for a in members])
    weights = np.outer([len(a) for a in members], [len(b) for b in others])
    area = float((matrix * weights).sum() / weights.sum())
    metrics: dict[str, Any] = {"auc": area, "auc_deviation": abs(area - 0.5)}
    for rate in LOW_FPRS:
        metrics[f"tpr_at_fpr_{rate:g}"] = curve.tpr_at(rate)
    metrics.update(_thresholded(positive.scores, negative.scores, threshold))
    intervals = _intervals(members, others, matrix, weights, metrics, threshold, seed, bootstrap)
    metrics["streisand"] = bool("auc" in intervals and intervals["auc"][1] < 0.5)
    return Evaluation(metrics, intervals, curve, verdict(area, intervals.get("auc")), matrix)


def verdict(area: float, interval: list[float] | None) -> str:
    """Returns in words what an AUC and its interval say about forgetting."""
    if interval is None:
        return f"Not decided: AUC {area:.3f}, but with one model on a side there is no interval."
    low, high = interval
    shown = f"AUC {area:.3f} [{low:.3f}, {high:.3f}]"
    if low > 0.5:
        return f"Did not forget: {shown} lies above 0.5, so the attacker still recognises the forget set."
    if high < 0.5:
        return (
            f"Over-unlearned (Streisand effect): {shown} lies below 0.5, so forget samples stand out by too little confidence; "
            "an attacker who turns the score round finds them."
        )
    return f"Forgot, as far as this attack can tell: {shown} includes 0.5."


def paired_difference(
    method: Evaluation, reference: Evaluation, *, seed: int = 0, bootstrap: int = 2000
) -> tuple[float, list[float]]:
    """Returns AUC(method) − AUC(reference) and its interval; both were attacked against the same retrained models.

    The shared negatives are resampled together, so their part of the spread cancels.
    """
    a, b = method.auc_matrix, reference.auc_matrix
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"method and reference were measured against {a.shape[1]} and {b.shape[1]} retrained models, not the same"
        )
    generator = np.random.default_rng(seed)
    columns = generator.integers(0, a.shape[1], (bootstrap, a.shape[1]))
    differences = _resampled_means(a, columns, generator) - _resampled_means(b, columns, generator)
    return float(a.mean() - b.mean()), expanded_interval(differences, min(*a.shape, *b.shape))


def _resampled_means(matrix: np.ndarray, columns: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    rows = generator.integers(0, matrix.shape[0], (len(columns), matrix.shape[0]))
    weights_r = np.stack([np.bincount(r, minlength=matrix.shape[0]) for r in rows]) / matrix.shape[0]
    weights_c = np.stack([np.bincount(c, minlength=matrix.shape[1]) for c in columns]) / matrix.shape[1]
    return np.einsum("bi,ij,bj->b", weights_r, matrix, weights_c, optimize=True)


def _thresholded(positive: np.ndarray, negative: np.ndarray, threshold: float | None) -> dict[str, float | None]:
    names = ("balanced_accuracy", "precision", "recall", "f1")
    if threshold is None:
        return dict.fromkeys(names)
    true_positives, false_positives = int((positive >= threshold).sum()), int((negative >= threshold).sum())
    recall = true_positives / len(positive)
    specificity = 1.0 - false_positives / len(negative)
    found = true_positives + false_positives
    precision = true_positives / found if found else None
    return {
        "balanced_accuracy": (recall + specificity) / 2.0,
        "precision": precision,
        "recall": recall,
        "f1": 2.0 * true_positives / (2.0 * true_positives + false_positives + (len(positive) - true_positives)),
    }


def _intervals(
    members: list[np.ndarray],
    others: list[np.ndarray],
    matrix: np.ndarray,
    weights: np.ndarray,
    metrics: dict[str, Any],
    threshold: float | None,
    seed: int,
    bootstrap: int,
) -> dict[str, list[float]]:
    """Bootstraps over models. AUC is a mean over pairs of models, so resampling models is resampling rows and columns."""
    if len(members) < 2 or len(others) < 2:
        return {}
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, len(members), (bootstrap, len(members)))
    columns = generator.integers(0, len(others), (bootstrap, len(others)))
    w_rows = np.stack([np.bincount(r, minlength=len(members)) for r in rows]).astype(np.float64)
    w_columns = np.stack([np.bincount(c, minlength=len(others)) for c in columns]).astype(np.float64)
    total = np.einsum("bi,ij,bj->b", w_rows, weights.astype(np.float64), w_columns, optimize=True)
    areas = np.einsum("bi,ij,bj->b", w_rows, matrix * weights, w_columns, optimize=True) / total
    fewest = min(len(members), len(others))
    found = {"auc": expanded_interval(areas, fewest)}
    for rate in LOW_FPRS:
        if metrics[f"tpr_at_fpr_{rate:g}"] is not None:
            found[f"tpr_at_fpr_{rate:g}"] = expanded_interval(_resampled_tpr(members, others, w_rows, w_columns, rate), fewest)
    if threshold is not None:
        hit = np.asarray([(m >= threshold).sum() for m in members], dtype=np.float64)
        alarm = np.asarray([(o >= threshold).sum() for o in others], dtype=np.float64)
        n_members = w_rows @ np.asarray([len(m) for m in members], dtype=np.float64)
        n_others = w_columns @ np.asarray([len(o) for o in others], dtype=np.float64)
        recall, false_rate = (w_rows @ hit) / n_members, (w_columns @ alarm) / n_others
        found["balanced_accuracy"] = expanded_interval((recall + 1.0 - false_rate) / 2.0, fewest)
        found["recall"] = expanded_interval(recall, fewest)
    return found


def _resampled_tpr(
    members: list[np.ndarray], others: list[np.ndarray], w_rows: np.ndarray, w_columns: np.ndarray, rate: float
) -> np.ndarray:
    """TPR at a fixed FPR for every bootstrap sample: weighted counts over one common sort of all scores."""
    negatives = np.concatenate(others)
    owner = np.repeat(np.arange(len(others)), [len(o) for o in others])
    order = np.argsort(-negatives, kind="stable")
    negatives, owner = negatives[order], owner[order]
    ends = np.append(np.flatnonzero(np.diff(negatives)), len(negatives) - 1)
    found = np.empty(len(w_rows))
    sizes = np.asarray([len(m) for m in members], dtype=np.float64)
    ordered = [np.sort(m) for m in members]
    for index, (w_row, w_column) in enumerate(zip(w_rows, w_columns, strict=True)):
        counts = np.cumsum(w_column[owner])
        within = np.flatnonzero(counts[ends] <= rate * counts[-1] + 1e-9)
        # The threshold may fall to just above the first negative that would be one too many.
        if len(within) == len(ends):
            threshold, strict = -np.inf, False
        else:
            threshold, strict = negatives[ends[0 if not len(within) else within[-1] + 1]], True
        side = "right" if strict else "left"
        above = np.asarray([len(m) - np.searchsorted(m, threshold, side=side) for m in ordered], dtype=np.float64)
        found[index] = (w_row @ above) / (w_row @ sizes)
    return found


def expanded_interval(values: np.ndarray, models: int) -> list[float]:
    """Returns the expanded percentile interval: the percentile bootstrap is too narrow for few models.

    Its tails are moved out to where Student's t with n − 1 degrees of freedom, and the bootstrap's missing factor
    n/(n − 1) in the variance, would put them. Source: Hesterberg, The American Statistician 69 (2015), section 5.
    """
    from scipy.special import stdtrit

    quantile = float(stdtrit(models - 1, (1 + LEVEL) / 2)) * math.sqrt(models / (models - 1))
    tail = NormalDist().cdf(-quantile)
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return [float(low), float(high)]
