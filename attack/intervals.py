"""Bootstrap over models: how much an estimate would move with other models of the same kinds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
COARSE = 512  # cells of the coarse grid on which a resampled false-positive rate is looked up first


def resampled_weights(models: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Returns how often each bootstrap sample holds each model, float64 `(draws, models)`."""
    return generator.multinomial(models, np.full(models, 1.0 / models), size=draws).astype(np.float64)


def weighted_means(matrix: np.ndarray, sizes: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns the mean of `matrix` over pairs of models, weighted by `sizes`, in each bootstrap sample, float64 `(draws,)`."""
    total = np.einsum("bi,ij,bj->b", rows, sizes, columns, optimize=True)
    return np.einsum("bi,ij,bj->b", rows, matrix * sizes, columns, optimize=True) / total


def expanded_interval(values: np.ndarray, models: int) -> list[float]:
    """Returns the expanded percentile interval: the percentile bootstrap is too narrow for few models.

    Its tails are moved out to where Student's t with n − 1 degrees of freedom, and the bootstrap's missing factor
    n/(n − 1) in the variance, would put them. Source: Hesterberg, The American Statistician 69 (2015), section 5.

    **Arguments:** `values`: bootstrap estimates. `models`: on the smaller side, at least 2.
    """
    from scipy.special import stdtrit

    quantile = float(stdtrit(models - 1, (1 + LEVEL) / 2)) * math.sqrt(models / (models - 1))
    tail = NormalDist().cdf(-quantile)
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return [float(low), float(high)]


def resampled_tpr(
    members: list[np.ndarray],
    others: list[np.ndarray],
    rows: np.ndarray,
    columns: np.ndarray,
    rates: Sequence[float],
) -> list[np.ndarray]:
    """Returns the true-positive rate at each false-positive rate in each bootstrap sample, float64 `(draws,)` for each rate.

    The threshold falls to just above the first negative that would be one too many. Where that is, is looked up on a
    coarse grid of the sorted negatives and then row by row within one cell, so a draw costs its models, not its rows.
    """
    negatives = np.concatenate(others)
    owner = np.repeat(np.arange(len(others)), [len(o) for o in others])
    order = np.argsort(-negatives, kind="stable")
    negatives, owner = negatives[order], owner[order]
    ends = np.append(np.flatnonzero(np.diff(negatives)), len(negatives) - 1)  # of each run of equal scores
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
        thresholds = np.empty(len(columns))
        for index, weight in enumerate(columns):
            allowed = rate * reached[index, -1] + 1e-9
            whole = int(np.searchsorted(reached[index], allowed, side="right"))  # cells that fit in entirely
            if whole == len(stops):
                thresholds[index] = -np.inf
                continue
            begin = int(starts[whole])
            before = reached[index, whole - 1] if whole else 0.0
            running = before + np.cumsum(weight[owner[begin : int(stops[whole])]])
            inside = ends[whole * cell : (whole + 1) * cell]
            first_over = int(np.searchsorted(running[inside - begin], allowed, side="right"))
            thresholds[index] = negatives[inside[first_over]]
        above = np.stack([len(m) - np.searchsorted(m, thresholds, side="right") for m in ordered], axis=1)
        found.append((rows * above).sum(axis=1) / of_members)
    return found
