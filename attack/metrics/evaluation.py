"""How well an attack tells a method's models from retrained ones, with intervals over models.

Rows of one model are correlated, so an interval over rows would be far too narrow: models are the
units. An AUC and rates at a low false-positive rate are bootstrapped. What is a mean over models,
or follows from two of them, has Student's t (`t_intervals`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .areas import Areas, areas_difference
from .bootstrap import (
    beyond_interval,
    bounded_below,
    expanded_interval,
    resampled_tpr,
    resampled_weights,
    weighted_means,
)
from .roc import Roc, roc
from .t_intervals import Shares, combined_interval, share_interval

LOW_FPRS = (0.01, 0.001, 0.0001)
# below it, the interval holds only if no model in hundreds stands out: docs/results/attack
RARE_FPR = 0.005


@dataclass(frozen=True)
class Scores:
    """Membership scores `(rows,)` float64, higher = member, with the model (text or a number) and
    the sample that each belongs to."""

    scores: np.ndarray
    model_ids: np.ndarray
    sample_ids: np.ndarray

    def by_model(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Returns the model ids, sorted, and the scores of each."""
        models, owner = np.unique(self.model_ids, return_inverse=True)
        order = np.argsort(owner, kind="stable")
        counts = np.bincount(owner, minlength=len(models))
        return models, np.split(self.scores[order], np.cumsum(counts)[:-1])


@dataclass(frozen=True)
class Evaluation:
    """What an attack achieves: metrics by name (None where not measurable), 95 % intervals, the
    curve.

    `notes` say which intervals are not to be relied on, and why. What a row's attacks mean together
    is for `attack.audit.verdicts` to say.
    """

    metrics: dict[str, Any]
    ci: dict[str, list[float]]
    roc: Roc
    areas: Areas = field(repr=False)
    notes: tuple[str, ...] = ()


def evaluate(
    positive: Scores,
    negative: Scores,
    *,
    threshold: float | None = None,
    seed: int = 0,
    bootstrap: int = 2000,
) -> Evaluation:
    """Compares members' scores with non-members'.

    **Arguments:**

    - `positive`: rows of the models under test. `negative`: rows of retrained models.
    - `threshold`: the attacker's tuned threshold; None leaves the thresholded metrics out (None).
    - `seed`, `bootstrap`: of those intervals that are resampled, over models on both sides.

    **Raises:** `ValueError` where a side is empty or a score is NaN.
    """
    for name, side in (("positive", positive), ("negative", negative)):
        if len(side.scores) == 0:
            raise ValueError(f"{name}: no rows to evaluate")
    labels = np.concatenate([np.ones(len(positive.scores)), np.zeros(len(negative.scores))])
    curve = roc(labels, np.concatenate([positive.scores, negative.scores]))
    _, members = positive.by_model()
    negative_models, others = negative.by_model()
    areas = Areas.of(members, others, negative_models)
    fewest, area = min(areas.matrix.shape), areas.mean
    metrics: dict[str, Any] = {"auc": area, "auc_deviation": abs(area - 0.5)}
    for rate in LOW_FPRS:
        metrics[f"tpr_at_fpr_{rate:g}"] = curve.tpr_at(rate)
    metrics.update(_thresholded(positive.scores, negative.scores, threshold))
    intervals: dict[str, list[float]] = {}
    if fewest > 1:
        intervals = _resampled_intervals(members, others, areas, curve, seed, bootstrap)
        if threshold is not None:
            intervals |= _thresholded_intervals(members, others, threshold)
    return Evaluation(metrics, intervals, curve, areas, _notes(intervals, curve, areas.matrix.shape[1]))


def paired_difference(
    method: Areas | Evaluation, reference: Areas | Evaluation, *, seed: int = 0, bootstrap: int = 2000
) -> tuple[float, list[float] | None]:
    """Returns AUC(method) − AUC(reference) and its interval; one attacker scored both against the
    same retrained models.

    The shared retrained models are resampled together, so their part of the spread cancels.
    The interval is None where a side has one model.

    **Raises:** `ValueError` where the retrained models are not the same.
    """
    mine, theirs = (side.areas if isinstance(side, Evaluation) else side for side in (method, reference))
    return mine.mean - theirs.mean, areas_difference(mine, theirs, seed=seed, draws=bootstrap)


def worst_samples(positive: Scores, negative: Scores, count: int = 10) -> list[dict[str, Any]]:
    """Returns the samples that are told apart best, each `{"sample_id", "auc",
    "score_difference"}`, the best told first.

    `auc` is over the models of both sides on that sample alone. They are ranked by its distance
    from 0.5, since an AUC near 0 gives a sample away as surely as one near 1. Above 0.5 it is
    recognised; below it stands out by too low a score. Between equal ones the distance of the mean
    scores decides.
    """
    ids, sample = np.unique(np.concatenate([positive.sample_ids, negative.sample_ids]), return_inverse=True)
    scores = np.concatenate([positive.scores, negative.scores])
    member = np.repeat([True, False], [len(positive.scores), len(negative.scores)])
    members, others = (np.bincount(sample[side], minlength=len(ids)) for side in (member, ~member))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [
            np.bincount(sample[s], scores[s], minlength=len(ids)) / n for s, n in ((member, members), (~member, others))
        ]
        difference = means[0] - means[1]
    order = np.lexsort((scores, sample))
    sample, scores, member = sample[order], scores[order], member[order]
    # In each sample's run of equal scores a member beats all others below it, and half of those in
    # it.
    starts = np.flatnonzero(np.append(True, (sample[1:] != sample[:-1]) | (scores[1:] != scores[:-1])))
    inside = np.add.reduceat((~member).astype(np.int64), starts)
    below = np.cumsum(inside) - inside
    first = np.append(0, np.cumsum(others))[:-1]  # others in the samples before
    beaten = 2 * (below - first[sample[starts]]) + inside
    won = np.bincount(sample[starts], np.add.reduceat(member.astype(np.int64), starts) * beaten, minlength=len(ids))
    both = np.flatnonzero((members > 0) & (others > 0))
    areas = won[both] / (2.0 * members[both] * others[both])
    worst = both[np.lexsort((ids[both], -np.abs(difference[both]), -np.round(np.abs(areas - 0.5), 12)))[:count]]
    area_of = dict(zip(both.tolist(), areas.tolist(), strict=True))
    return [{"sample_id": int(ids[i]), "auc": area_of[int(i)], "score_difference": float(difference[i])} for i in worst]


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


def reaching(models: list[np.ndarray], threshold: float) -> Shares:
    """Returns how many scores of each model reach the threshold."""
    return Shares(
        np.asarray([(scores >= threshold).sum() for scores in models], dtype=np.float64),
        np.asarray([len(scores) for scores in models], dtype=np.float64),
    )


def _thresholded_intervals(
    members: list[np.ndarray], others: list[np.ndarray], threshold: float
) -> dict[str, list[float]]:
    """Returns the intervals of what follows from recall and false-positive rate, the threshold
    taken as given."""
    hits, alarms = reaching(members, threshold), reaching(others, threshold)
    positives, negatives = float(hits.rows.sum()), float(alarms.rows.sum())
    found = {
        "recall": share_interval(hits),
        "balanced_accuracy": combined_interval(lambda r, f: (r + 1.0 - f) / 2.0, (0.5, -0.5), hits, alarms),
    }
    # rows that are called members, rightly and wrongly
    x, y = hits.value * positives, alarms.value * negatives
    both = x + y + positives
    found["f1"] = combined_interval(
        lambda r, f: 2.0 * r * positives / (r * positives + f * negatives + positives),
        (2.0 * positives * (both - x) / both**2, -2.0 * negatives * x / both**2),
        hits,
        alarms,
    )
    if x + y > 0.0:
        found["precision"] = combined_interval(
            lambda r, f: r * positives / max(r * positives + f * negatives, 1e-300),
            (positives * y / (x + y) ** 2, -negatives * x / (x + y) ** 2),
            hits,
            alarms,
        )
    return found


def _resampled_intervals(
    members: list[np.ndarray], others: list[np.ndarray], areas: Areas, curve: Roc, seed: int, bootstrap: int
) -> dict[str, list[float]]:
    """Bootstraps over models. AUC is a mean over pairs of models, so resampling models is
    resampling rows and columns."""
    generator = np.random.default_rng(seed)
    rows = resampled_weights(len(members), bootstrap, generator)
    columns = resampled_weights(len(others), bootstrap, generator)
    fewest = min(len(members), len(others))
    found = {"auc": expanded_interval(weighted_means(areas.matrix, areas.sizes, rows, columns), fewest)}
    rates = [rate for rate in LOW_FPRS if curve.tpr_at(rate) is not None]
    if rates:
        for rate, values in zip(rates, resampled_tpr(members, others, rows, columns, rates), strict=True):
            beyond = reaching(members, curve.threshold_at(rate))
            found[f"tpr_at_fpr_{rate:g}"] = beyond_interval(values, fewest, beyond, rate * curve.negatives)
    return found


def _notes(intervals: dict[str, list[float]], curve: Roc, retrained: int) -> tuple[str, ...]:
    """Returns what is to be known of intervals that look surer than they are."""
    rates = [rate for rate in LOW_FPRS if f"tpr_at_fpr_{rate:g}" in intervals]
    open_below = [f"{rate:g}" for rate in rates if not bounded_below(rate * curve.negatives)]
    rare = [f"{rate:g}" for rate in rates if bounded_below(rate * curve.negatives) and rate < RARE_FPR]
    found = []
    if open_below:
        found.append(
            f"the interval of the TPR at FPR {' and '.join(open_below)} has no lower end but 0. "
            f"Of {curve.negatives:,} outputs of retrained models too few may lie above the threshold to show where it is"
        )
    if rare:
        found.append(
            f"the interval of the TPR at FPR {' and '.join(rare)} takes the {retrained} retrained models here for all. "
            "Where one in hundreds scores far higher than the others, the true TPR lies below it"
        )
    return tuple(found)
