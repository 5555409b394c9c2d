"""How well an attack tells a method's models from retrained ones, with intervals bootstrapped over models.

Rows of one model are correlated, so an interval over rows would be far too narrow: models are what is resampled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .intervals import expanded_interval, resampled_tpr, resampled_weights, weighted_means
from .metrics import Roc, auc_matrix, roc
from .verdicts import Reading, judge_one

LOW_FPRS = (0.01, 0.001, 0.0001)


@dataclass(frozen=True)
class Scores:
    """Membership scores `(rows,)` float64, higher = member, with the model (text or a number) and the sample that each belongs to."""

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
class Pairs:
    """The area under the curve of every pair of models: all that a difference of two AUCs, and its interval, are made of.

    **Arguments:**

    - `auc_matrix`: float64 `(models under test, retrained models)`. `sizes`: pairs of rows behind each of its entries.
    - `negative_models`: ids of the retrained models, in the order of the columns.
    """

    auc_matrix: np.ndarray = field(repr=False)
    sizes: np.ndarray = field(repr=False)
    negative_models: np.ndarray = field(repr=False)

    @property
    def area(self) -> float:
        """The area over all pairs of rows."""
        return float((self.auc_matrix * self.sizes).sum() / self.sizes.sum())

    def area_by_model(self) -> list[float]:
        """Returns the area of each model under test."""
        found: list[float] = ((self.auc_matrix * self.sizes).sum(axis=1) / self.sizes.sum(axis=1)).tolist()
        return found

    def to_json(self) -> dict[str, Any]:
        """Returns JSON data that `from_json` makes the same pairs of, to the last bit."""
        return {name: getattr(self, name).tolist() for name in ("auc_matrix", "sizes", "negative_models")}

    @staticmethod
    def from_json(document: dict[str, Any]) -> Pairs:
        """Returns the pairs that `to_json` wrote."""
        matrix, sizes = (np.asarray(document[name], dtype=np.float64) for name in ("auc_matrix", "sizes"))
        return Pairs(matrix, sizes, np.asarray(document["negative_models"]))


@dataclass(frozen=True)
class Evaluation(Pairs):
    """What an attack achieves: metrics by name (None where not measurable), 95 % intervals, the curve, and in words what it says alone.

    A row's verdict is of all its attacks, and knows what they make of models never unlearned: `attack.verdicts`.
    """

    metrics: dict[str, Any]
    ci: dict[str, list[float]]
    roc: Roc
    verdict: str


def evaluate(
    positive: Scores,
    negative: Scores,
    *,
    threshold: float | None = None,
    seed: int = 0,
    bootstrap: int = 2000,
    directed: bool = True,
    per_method: bool = False,
) -> Evaluation:
    """Compares members' scores with non-members'.

    **Arguments:**

    - `positive`: rows of the models under test. `negative`: rows of retrained models.
    - `threshold`: the attacker's tuned threshold; None leaves the thresholded metrics out (None).
    - `seed`, `bootstrap`: of the intervals, resampled over models on both sides.
    - `directed`: high scores mean "trained on". False for attacks that do not know which way a model errs: those that do not
        know the label, and those fitted on the method's own models (`per_method`, U-LiRA), where they mean "unlearned".

    **Raises:** `ValueError` where a side is empty or a score is NaN.
    """
    for name, side in (("positive", positive), ("negative", negative)):
        if len(side.scores) == 0:
            raise ValueError(f"{name}: no rows to evaluate")
    labels = np.concatenate([np.ones(len(positive.scores)), np.zeros(len(negative.scores))])
    curve = roc(labels, np.concatenate([positive.scores, negative.scores]))
    models, members = positive.by_model()
    negative_models, others = negative.by_model()
    matrix = auc_matrix(members, others)
    sizes = np.outer([len(a) for a in members], [len(b) for b in others]).astype(np.float64)
    area = Pairs(matrix, sizes, negative_models).area
    metrics: dict[str, Any] = {"auc": area, "auc_deviation": abs(area - 0.5)}
    for rate in LOW_FPRS:
        metrics[f"tpr_at_fpr_{rate:g}"] = curve.tpr_at(rate)
    metrics.update(_thresholded(positive.scores, negative.scores, threshold))
    intervals: dict[str, list[float]] = {}
    if len(models) > 1 and len(negative_models) > 1:
        intervals = _intervals(members, others, matrix, sizes, metrics, threshold, seed, bootstrap)
    interval = (intervals["auc"][0], intervals["auc"][1]) if "auc" in intervals else None
    fewest = min(len(models), len(negative_models))
    found = judge_one(Reading("", area, interval, fewest, directed, per_method))
    metrics["streisand"] = found.word == "over-unlearned"
    return Evaluation(matrix, sizes, negative_models, metrics, intervals, curve, found.told())


def paired_difference(
    method: Pairs, reference: Pairs, *, seed: int = 0, bootstrap: int = 2000
) -> tuple[float, list[float] | None]:
    """Returns AUC(method) − AUC(reference) and its interval; one attacker scored both, against the same retrained models.

    The shared negatives are resampled together, so their part of the spread cancels. The interval is None where a side
    has one model.

    **Raises:** `ValueError` where the retrained models are not the same.
    """
    if not np.array_equal(method.negative_models, reference.negative_models):
        raise ValueError("negative: method and reference were not measured against the same retrained models")
    difference = method.area - reference.area
    fewest = min(*method.auc_matrix.shape, *reference.auc_matrix.shape)
    if fewest < 2:
        return difference, None
    generator = np.random.default_rng(seed)
    columns = resampled_weights(method.auc_matrix.shape[1], bootstrap, generator)
    means = []
    for side in (method, reference):
        rows = resampled_weights(side.auc_matrix.shape[0], bootstrap, generator)
        means.append(weighted_means(side.auc_matrix, side.sizes, rows, columns))
    return difference, expanded_interval(means[0] - means[1], fewest)


def worst_samples(positive: Scores, negative: Scores, count: int = 10) -> list[dict[str, Any]]:
    """Returns the samples that are told apart best, each `{"sample_id", "auc", "score_difference"}`, the best told first.

    `auc` is over the models of both sides on that sample alone. They are ranked by its distance from 0.5, since an AUC near 0
    gives a sample away as surely as one near 1: above 0.5 it is recognised, below it stands out by too low a score. Between
    equal ones the distance of the mean scores decides.
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
    # In each sample's run of equal scores a member beats all others below it, and half of those in it.
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


def _intervals(
    members: list[np.ndarray],
    others: list[np.ndarray],
    matrix: np.ndarray,
    sizes: np.ndarray,
    metrics: dict[str, Any],
    threshold: float | None,
    seed: int,
    bootstrap: int,
) -> dict[str, list[float]]:
    """Bootstraps over models. AUC is a mean over pairs of models, so resampling models is resampling rows and columns."""
    generator = np.random.default_rng(seed)
    rows = resampled_weights(len(members), bootstrap, generator)
    columns = resampled_weights(len(others), bootstrap, generator)
    fewest = min(len(members), len(others))
    found = {"auc": expanded_interval(weighted_means(matrix, sizes, rows, columns), fewest)}
    measurable = [rate for rate in LOW_FPRS if metrics[f"tpr_at_fpr_{rate:g}"] is not None]
    if measurable:
        for rate, values in zip(measurable, resampled_tpr(members, others, rows, columns, measurable), strict=True):
            found[f"tpr_at_fpr_{rate:g}"] = expanded_interval(values, fewest)
    if threshold is not None:
        hits = rows @ np.asarray([(m >= threshold).sum() for m in members], dtype=np.float64)
        alarms = columns @ np.asarray([(o >= threshold).sum() for o in others], dtype=np.float64)
        of_members = rows @ np.asarray([len(m) for m in members], dtype=np.float64)
        of_others = columns @ np.asarray([len(o) for o in others], dtype=np.float64)
        found["balanced_accuracy"] = expanded_interval((hits / of_members + 1.0 - alarms / of_others) / 2.0, fewest)
        found["recall"] = expanded_interval(hits / of_members, fewest)
        found["f1"] = expanded_interval(2.0 * hits / (hits + alarms + of_members), fewest)
        if metrics["precision"] is not None and ((hits + alarms) > 0).all():
            found["precision"] = expanded_interval(hits / (hits + alarms), fewest)
    return found
