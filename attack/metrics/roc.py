"""ROC curve and area, exact with ties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic: rates at falling thresholds, from (0, 0) to (1, 1),
    float64."""

    fpr: np.ndarray
    tpr: np.ndarray
    thresholds: np.ndarray
    negatives: int

    @property
    def auc(self) -> float:
        """Area under the curve by trapezoids, which gives ties half."""
        return float(np.trapezoid(self.tpr, self.fpr))

    def tpr_at(self, fpr: float) -> float | None:
        """Returns the best true-positive rate at a false-positive rate of at most `fpr`.

        None where `fpr` is below 1/N_negative: so rare an event cannot be measured on N negatives.
        """
        if self.negatives == 0 or fpr < 1.0 / self.negatives:
            return None
        return float(self.tpr[self.fpr <= fpr + 1e-12].max())

    def threshold_at(self, fpr: float) -> float:
        """Returns the lowest threshold (member where score ≥ threshold) whose false-positive rate
        is at most `fpr`: that of `tpr_at`."""
        return float(self.thresholds[np.flatnonzero(self.fpr <= fpr + 1e-12)[-1]])


def roc(labels: np.ndarray, scores: np.ndarray) -> Roc:
    """Returns the ROC curve of `scores` (higher = member) against `labels` (1 member, 0 not).

    **Raises:** `ValueError` where a class is missing or a score is NaN.
    """
    truth, values = _checked(labels, scores)
    order = np.argsort(-values, kind="stable")
    truth, values = truth[order], values[order]
    last_of_tie = last_of_ties(values)
    true_positives = np.cumsum(truth)[last_of_tie]
    false_positives = (last_of_tie + 1) - true_positives
    positives, negatives = int(truth.sum()), int(len(truth) - truth.sum())
    return Roc(
        fpr=np.append(0.0, false_positives / negatives),
        tpr=np.append(0.0, true_positives / positives),
        thresholds=np.append(np.inf, values[last_of_tie]),
        negatives=negatives,
    )


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Returns the area under the ROC curve: P(member's score > non-member's) + ½ P(equal).

    **Raises:** `ValueError` where a class is missing or a score is NaN.
    """
    truth, values = _checked(labels, scores)
    return pair_auc(values[truth == 1], values[truth == 0])


def pair_auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Returns the area for scores of members and of non-members, by merging the sorted sides; ties
    count half."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    not_above = np.searchsorted(ordered, positive, side="right")
    return float((below + not_above).sum() / (2.0 * len(positive) * len(negative)))


def auc_matrix(positive: list[np.ndarray], negative: list[np.ndarray]) -> np.ndarray:
    """Returns the area of every pair of models, float64 `(len(positive), len(negative))`; ties
    count half.

    One common sort, then for each model of the negative side one pass over it.
    """
    places, distinct = _ranks(np.concatenate([*positive, *negative]))
    member_place, other_place = np.split(places, [sum(len(p) for p in positive)])
    owner = np.repeat(np.arange(len(positive)), [len(p) for p in positive])
    ends = np.cumsum([0, *(len(n) for n in negative)])
    matrix = np.empty((len(positive), len(negative)))
    for column in range(len(negative)):
        places = other_place[ends[column] : ends[column + 1]]
        equal = np.bincount(places, minlength=distinct)
        below_or_half = np.cumsum(equal) - 0.5 * equal
        matrix[:, column] = np.bincount(owner, below_or_half[member_place], minlength=len(positive))
    return matrix / np.outer([len(p) for p in positive], [len(n) for n in negative])


def _ranks(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns each value's place among the distinct ones, int64, and how many those are."""
    order = np.argsort(values)
    ordered = values[order]
    places = np.empty(len(values), dtype=np.int64)
    places[order] = np.cumsum(np.append(False, ordered[1:] != ordered[:-1]))
    return places, int(places[order[-1]]) + 1


def last_of_ties(ordered: np.ndarray) -> np.ndarray:
    """Returns where each run of equal values ends. Infinite values are equal, too, though their
    difference is not a number.
    """
    return np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)


def best_f1(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Returns the threshold on `scores` (predict member where score ≥ threshold) with the best F1,
    and that F1.

    Of equal ones the highest threshold.
    """
    order = np.argsort(-scores, kind="stable")
    truth, values = labels[order], scores[order]
    last_of_tie = last_of_ties(values)
    true_positives = np.cumsum(truth)[last_of_tie]
    predicted = last_of_tie + 1
    f1 = 2.0 * true_positives / (predicted + truth.sum())
    best = int(np.argmax(f1))
    return float(values[last_of_tie[best]]), float(f1[best])


def ks_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the two-sample Kolmogorov–Smirnov distance: the largest gap between the two
    distribution functions."""
    if len(first) == 0 or len(second) == 0:
        raise ValueError("first and second: both samples need values")
    values = np.concatenate([first, second])
    a = np.searchsorted(np.sort(first), values, side="right") / len(first)
    b = np.searchsorted(np.sort(second), values, side="right") / len(second)
    return float(np.abs(a - b).max())


def _checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth = np.asarray(labels).astype(np.int64)
    values = np.asarray(scores, dtype=np.float64)
    if truth.shape != values.shape or truth.ndim != 1:
        raise ValueError(f"labels and scores: shapes {truth.shape} and {values.shape} are not one equal length")
    if np.isnan(values).any():
        raise ValueError(f"scores: {int(np.isnan(values).sum())} of {len(values)} are NaN")
    if set(np.unique(truth)) != {0, 1}:
        raise ValueError("labels: both members (1) and non-members (0) are needed")
    return truth, values
