"""Samples that still stand out one by one, and whether forget samples differ from unseen ones.

A mean over samples hides a few that are remembered in full. So each sample's φ is compared over
models: those under test against retrained ones, by the likelihood ratio of two Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .students import quantile, relabelled

DRAWS = 999  # relabellings behind a p-value; the least is 1 in 1,000
_BLOCK = 1024  # samples at a time: all relabellings of them take 8 MiB


@dataclass(frozen=True)
class Traces:
    """What single samples give away.

    **Arguments:**

    - `share`: the share of samples whose φ is higher than a false-positive rate of `fpr` allows.
    - `below`: the same share for φ that is too low.
    - `chance`: the mean share where models under test are like retrained ones; about `fpr`.
    - `p_value`: how often chance gives as large a share.
    - `found`: places of the samples that stand out, the clearest first.
    """

    share: float
    below: float
    chance: float
    p_value: float
    found: tuple[int, ...]


def traces(
    method: np.ndarray,
    retrained: np.ndarray,
    *,
    fpr: float = 0.01,
    seed: int = 0,
    draws: int = DRAWS,
    both: bool = False,
) -> Traces:
    """Compares φ of each sample between models under test and retrained ones.

    For Gaussians of one variance the likelihood ratio rises with the mean over models. So its
    threshold at a false-positive rate is that of Student's t. Chance is measured by relabelling
    models, which keeps what the samples of one model have in common.

    **Arguments:** φ, float64 `(models, S)`, at least two models on each side. `fpr`: in (0, 0.5).
    `both`: a value that is too low counts as one that is too high.

    **Raises:** `ValueError` where a side has fewer than two models.
    """
    if min(len(method), len(retrained)) < 2:
        raise ValueError("models: traces compare two groups of at least 2 models each")
    values = np.concatenate([method, retrained])
    values = values - values.mean(axis=0)
    squares = (values**2).sum(axis=0)
    chosen = relabelled(len(method), len(retrained), draws, seed)
    statistic = _students(chosen[:1], values, squares)[0]
    limit = quantile(len(values) - 2, 1.0 - (fpr / 2.0 if both else fpr))
    below = statistic < -limit
    chance = np.zeros(draws, dtype=np.int64)
    for start in range(0, len(statistic), _BLOCK):
        block = slice(start, start + _BLOCK)
        drawn = _students(chosen[1:], values[:, block], squares[block])
        chance += ((np.abs(drawn) if both else drawn) > limit).sum(axis=1)
    if both:
        statistic = np.abs(statistic)
    found = np.flatnonzero(statistic > limit)
    count = len(found)
    return Traces(
        share=count / len(statistic),
        below=float(below.mean()),
        chance=float(chance.mean() / len(statistic)),
        p_value=float((1 + (chance >= count).sum()) / (1 + draws)),
        found=tuple(int(i) for i in found[np.argsort(-statistic[found], kind="stable")]),
    )


def _students(chosen: np.ndarray, values: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Returns Student's t of each sample for each choice of models, float64 `(choices, S)`.

    **Arguments:** `chosen`: 1 for models of the first group, `(choices, models)`. `values`: centred
    by sample.
    """
    models, mine = len(values), float(chosen[0].sum())
    theirs = models - mine
    mean = chosen @ values / mine
    # the other group's mean follows, since all values of a sample sum to 0
    apart = mean * models / theirs
    inside = squares - mine * theirs / models * apart**2
    error = np.sqrt(np.maximum(inside, 0.0) / (models - 2) * (1.0 / mine + 1.0 / theirs))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error > 1e-12, apart / error, np.where(np.abs(apart) > 1e-12, np.sign(apart) * np.inf, 0.0))
