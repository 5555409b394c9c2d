"""Bootstrap over models: how much an estimate would move with other models of the same kinds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from ..library import load_special
from .roc import last_of_ties
from .t_intervals import LEVEL, TAIL, Shares, share_interval

COARSE = 512  # cells of the coarse grid on which a resampled false-positive rate is looked up first


def resampled_weights(models: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Returns how often each bootstrap sample holds each model, float64 `(draws, models)`."""
    return generator.multinomial(models, np.full(models, 1.0 / models), size=draws).astype(np.float64)


def weighted_means(matrix: np.ndarray, sizes: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns the mean of `matrix` over pairs of models, weighted by `sizes`, in each bootstrap
    sample, float64 `(draws,)`."""
    total = np.einsum("bi,ij,bj->b", rows, sizes, columns, optimize=True)
    return np.einsum("bi,ij,bj->b", rows, matrix * sizes, columns, optimize=True) / total


def expanded_interval(values: np.ndarray, models: int) -> list[float]:
    """Returns the expanded percentile interval: the percentile bootstrap is too narrow for few
    models.

    Its tails are moved out. They lie where Student's t with n − 1 degrees of freedom would put
    them, with the bootstrap's missing factor n/(n − 1) in the variance. Source: Hesterberg, The
    American Statistician 69 (2015), section 5.

    **Arguments:** `values`: bootstrap estimates. `models`: on the smaller side, at least 2.
    """
    quantile = float(load_special().stdtrit(models - 1, (1 + LEVEL) / 2)) * math.sqrt(models / (models - 1))
    tail = NormalDist().cdf(-quantile)
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return [float(low), float(high)]


def beyond_interval(resampled: np.ndarray, models: int, beyond: Shares, allowed: float) -> list[float]:
    """Returns the 95 % interval of the share of members beyond a threshold that leaves `allowed`
    rows of others beyond it.

    Members' models and others', which set the threshold, both add to it: that is the bootstrap's.
    It is at least as wide as the interval of the share alone were the threshold certain, since
    resampling few models gives too little.

    With few rows allowed, the true threshold lies beyond the last row with a chance of e^−allowed,
    even where rows are independent. Where that is more than 2.5 %, nothing bounds the share from
    below but 0: no resampling of the rows shows what lies beyond them.

    **Arguments:** `resampled`: bootstrap estimates. `models`: on the smaller side. `beyond`:
    members beyond the threshold.
    """
    low, high = expanded_interval(resampled, models)
    certain = share_interval(beyond)
    return [min(low, certain[0]) if bounded_below(allowed) else 0.0, max(high, certain[1])]


def bounded_below(allowed: float) -> bool:
    """Says whether a threshold that leaves `allowed` rows beyond it can be told from one that
    leaves none: from 3.7 on."""
    return math.exp(-allowed) <= TAIL


def resampled_tpr(
    members: list[np.ndarray],
    others: list[np.ndarray],
    rows: np.ndarray,
    columns: np.ndarray,
    rates: Sequence[float],
    ties: bool = False,
) -> list[np.ndarray]:
    """Returns the true-positive rate at each false-positive rate in each bootstrap sample, float64
    `(draws,)` for each rate.

    The threshold falls to just above the first negative that would be one too many. Where that is,
    is looked up on a coarse grid of the sorted negatives and then row by row within one cell. So a
    draw costs its models, not its rows. Where few models make many draws alike, it is done once.

    **Arguments:** `ties`: of the run of equal scores that would be too many, take the part that is
    allowed.
    """
    columns, drawn = np.unique(columns, axis=0, return_inverse=True)
    negatives = np.concatenate(others)
    owner = np.repeat(np.arange(len(others)), [len(o) for o in others])
    order = np.argsort(-negatives, kind="stable")
    negatives, owner = negatives[order], owner[order]
    # of each run of equal scores
    ends = last_of_ties(negatives)
    # counts[c, j]: rows of model j in the first c + 1 cells, each of `cell` runs.
    cell = max(1, math.ceil(len(ends) / COARSE))
    stops = np.append(ends[cell - 1 :: cell], len(negatives) - 1) + 1
    starts = np.append(0, stops[:-1])
    table = np.bincount(
        np.repeat(np.arange(len(stops)) * len(others), stops - starts) + owner, minlength=len(stops) * len(others)
    )
    counts = np.cumsum(table.reshape(len(stops), len(others)), axis=0)
    reached = columns @ counts.T  # (draws, cells), rising
    ordered = [np.sort(m) for m in members]
    of_members = rows @ np.asarray([len(m) for m in members], dtype=np.float64)
    found = []
    for rate in rates:
        thresholds, parts = np.empty(len(columns)), np.zeros(len(columns))
        for index, weight in enumerate(columns):
            allowed = rate * reached[index, -1] + 1e-9
            # cells that fit in entirely
            whole = int(np.searchsorted(reached[index], allowed, side="right"))
            if whole == len(stops):
                thresholds[index] = -np.inf
                continue
            begin = int(starts[whole])
            before = reached[index, whole - 1] if whole else 0.0
            running = before + np.cumsum(weight[owner[begin : int(stops[whole])]])
            inside = ends[whole * cell : (whole + 1) * cell]
            first_over = int(np.searchsorted(running[inside - begin], allowed, side="right"))
            thresholds[index] = negatives[inside[first_over]]
            fitting = running[inside[first_over - 1] - begin] if first_over else before
            parts[index] = (allowed - fitting) / (running[inside[first_over] - begin] - fitting)
        above = np.stack([len(m) - np.searchsorted(m, thresholds, side="right") for m in ordered], axis=1)
        if ties:
            reaching = np.stack([len(m) - np.searchsorted(m, thresholds, side="left") for m in ordered], axis=1)
            above = above + parts[:, None] * (reaching - above)
        found.append((rows * above[drawn.reshape(-1)]).sum(axis=1) / of_members)
    return found
