"""Which of many things differ between two groups of models, with one error rate for all of them.

Looked at one by one at 5 %, a hundred of two thousand samples would be found by chance. So the
largest of all statistics is held against what relabelled models give (Westfall and Young 1993,
single-step max-T). That keeps what the samples of one model have in common.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .students import relabelled

DRAWS = 999  # relabellings, beside the true labels
LEVEL = 0.95
BLOCK = 2000  # columns at a time
# Of the typical spread, added to every standard error (Tusher et al. 2001). Without it the errors
# of a small group, which have few distinct values, are endlessly far apart by chance.
FUDGE = 0.1


@dataclass(frozen=True)
class Apart:
    """Differences of means between two groups, each float64 `(S,)`.

    `low`, `high`: 95 % intervals that hold all differences at once. An end is infinite where there
    are too few models for an interval.
    """

    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray


def apart(mine: np.ndarray, theirs: np.ndarray, *, seed: int = 0, draws: int = DRAWS) -> Apart:
    """Compares two groups of models in `S` things at once, by Student's t with a common variance
    and a constant in its denominator.

    Where both groups are of one kind, any interval leaves out 0 in at most 5 % of experiments,
    whatever the distribution. Two models a side are too few to leave out 0 at all.

    **Arguments:** float64 `(models, S)`, at least two models on each side.

    **Raises:** `ValueError` where a side has fewer.
    """
    if min(len(mine), len(theirs)) < 2:
        raise ValueError("models: two groups of at least 2 models each are compared")
    values = np.concatenate([mine, theirs])
    chosen = relabelled(len(mine), len(theirs), draws, seed)
    spread = values.std(axis=0, ddof=1)
    typical = float(np.median(spread[spread > 0.0])) if (spread > 0.0).any() else 0.0
    constant = FUDGE * typical * np.sqrt(1.0 / len(mine) + 1.0 / len(theirs))
    largest = np.zeros(1 + draws)
    differences, errors = [], []
    for start in range(0, values.shape[1], BLOCK):
        difference, error = _differences(chosen, values[:, start : start + BLOCK])
        error += constant
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = np.where(difference == 0.0, 0.0, np.abs(difference) / error)
        largest = np.maximum(largest, statistic.max(axis=1, initial=0.0))
        differences.append(difference[0])
        errors.append(error[0])
    limit = float(np.sort(largest)[int(np.ceil(LEVEL * (1 + draws))) - 1])
    difference, error = np.concatenate(differences), np.concatenate(errors)
    reach = limit * error if np.isfinite(limit) else np.full_like(error, np.inf)
    return Apart(difference, difference - reach, difference + reach)


def _differences(chosen: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the difference of means and its standard error for each choice of models, both
    float64 `(choices, S)`."""
    models, mine = len(values), float(chosen[0].sum())
    theirs = models - mine
    centred = values - values.mean(axis=0)
    # the other group's mean follows, since all values of a column sum to 0
    difference = chosen @ centred / mine * (models / theirs)
    squares = (centred**2).sum(axis=0)
    inside = np.maximum(squares - mine * theirs / models * difference**2, 0.0)
    tiny = 1e-12 * np.maximum(squares, np.finfo(float).tiny)
    inside[inside < tiny] = 0.0
    difference[np.abs(difference) < 1e-12] = 0.0
    return difference, np.sqrt(inside / (models - 2) * (1.0 / mine + 1.0 / theirs))
