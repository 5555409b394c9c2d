"""Where a single model stands between models that saw the forget set and models that did not.

Many shadow models and one target allow a statement about that target. Suppose that it is like a
retrained model. Then it could be any of them, and its rank among them is uniform. So every
statistic here treats the target as one more retrained model, and leaves each out of its own
reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .gaussians import PER_SAMPLE_MODELS, VARIANCE_FLOOR
from .students import quantile
from .t_intervals import TAIL

LEAST_SHADOWS = 5  # on each side


@dataclass(frozen=True)
class Standing:
    """What per-sample attacks say of one model.

    **Arguments:**

    - `own`: its membership score. `retrained`, `originals`: those of the shadow models, float64
        `(models,)`. Higher is more like a model that saw the samples.
    - `left`: the share of the leak that is left, 0 as Retrain's mean and 1 as the originals'.
        `low`, `high`: its 95 % interval; it holds the spread of single models.
    - `sees`: whether the attack tells originals from retrained models at all.
    - `rank_above`: how often a retrained model scores as high, the target counted.
    - `found`: places of the samples that stand out, the clearest first. `usual`: how many stand
        out under each retrained model, int64 `(models,)`. `rank_found`: as `rank_above`, of these.
    """

    own: float
    retrained: np.ndarray
    originals: np.ndarray
    left: float
    low: float
    high: float
    sees: bool
    rank_above: float
    found: tuple[int, ...]
    usual: np.ndarray
    rank_found: float

    @property
    def samples_stand_out(self) -> bool:
        """Whether more samples stand out than under any retrained model, beyond their spread."""
        count = len(self.found)
        limit = self.usual.mean() + reach(self.usual, 0.01)
        return count > self.usual.max() and count > limit


def standing(own: np.ndarray, originals: np.ndarray, retrained: np.ndarray, fpr: float = 0.01) -> Standing:
    """Compares one model with shadow models, sample by sample.

    The score is the log-likelihood ratio of two Gaussians of one variance, averaged over samples.
    It rises with confidence, so a damaged model never counts as one that remembers. With fewer
    than 32 originals the variance is one for all samples. It is of originals only, so that the
    target has no part in it.

    **Arguments:** φ, or another number that is higher for members: `own` float64 `(S,)`,
    `originals` `(M, S)`, `retrained` `(N, S)`. `fpr`: of the search for single samples.

    **Raises:** `ValueError` where a side has fewer than 5 models, or a value is not finite.
    """
    if min(len(originals), len(retrained)) < LEAST_SHADOWS:
        raise ValueError(f"models: one model is compared with at least {LEAST_SHADOWS} shadow models of each kind")
    others = np.concatenate([retrained, own[None]])  # under the hypothesis, one is like another
    if not (np.isfinite(others).all() and np.isfinite(originals).all()):
        raise ValueError("models: a confidence is not finite")
    variance = np.maximum(originals.var(axis=0, ddof=1), VARIANCE_FLOOR)
    if len(originals) < PER_SAMPLE_MODELS:
        variance = np.full_like(variance, variance.mean())
    inside, outside = originals.mean(axis=0), others.mean(axis=0)
    outs = _ratios(others, inside, _without_each(others), variance)
    ins = _ratios(originals, _without_each(originals), outside, variance)
    theirs, mine = outs[:-1], float(outs[-1])
    left, low, high, sees = _share(mine, theirs, ins)
    tails = _tails(others, fpr)
    counts = tails.sum(axis=1)
    places = np.flatnonzero(tails[-1])
    clearest = np.argsort(-_students(others)[-1][places], kind="stable")
    return Standing(
        mine,
        theirs,
        ins,
        left,
        low,
        high,
        sees,
        _rank(mine, theirs),
        tuple(int(place) for place in places[clearest]),
        counts[:-1],
        _rank(float(counts[-1]), counts[:-1]),
    )


def reach(values: Sequence[float] | np.ndarray, tail: float = TAIL) -> float:
    """Returns how far one more value may lie from the mean of `values`, by Student's t."""
    array = np.asarray(values, dtype=np.float64)
    return quantile(len(array) - 1, 1.0 - tail) * float(array.std(ddof=1)) * math.sqrt(1.0 + 1.0 / len(array))


def _ratios(values: np.ndarray, inside: np.ndarray, outside: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Returns the mean log-likelihood ratio of each model, float64 `(models,)`."""
    ratios = (inside - outside) / variance * (values - (inside + outside) / 2.0)
    found: np.ndarray = ratios.mean(axis=1)
    return found


def _without_each(values: np.ndarray) -> np.ndarray:
    """Returns for each model the mean of the others, `(models, S)`."""
    found: np.ndarray = (values.sum(axis=0) - values) / (len(values) - 1)
    return found


def _students(values: np.ndarray) -> np.ndarray:
    """Returns Student's t of each model and sample against the other models, `(models, S)`."""
    rest = len(values) - 1
    mean = _without_each(values)
    centred = values - values.mean(axis=0)
    squares = (centred**2).sum(axis=0) - centred**2 * (rest + 1) / rest
    deviation = np.sqrt(np.maximum(squares / (rest - 1), VARIANCE_FLOOR) * (1.0 + 1.0 / rest))
    found: np.ndarray = (values - mean) / deviation
    return found


def _tails(values: np.ndarray, fpr: float) -> np.ndarray:
    """Says which samples of each model are higher than a rate of `fpr` allows, bool `(models,
    S)`."""
    found: np.ndarray = _students(values) > quantile(len(values) - 2, 1.0 - fpr)
    return found


def _share(mine: float, retrained: np.ndarray, originals: np.ndarray) -> tuple[float, float, float, bool]:
    """Returns the share of the leak that is left, its interval, and whether there was a leak to
    see.

    The interval holds the spread of one retrained model. What it is divided by has an interval of
    its own, whose less favourable end is taken.
    """
    gap = float(originals.mean() - retrained.mean())
    parts = [float(side.var(ddof=1)) / len(side) for side in (originals, retrained)]
    freedom = min(len(originals), len(retrained)) - 1
    error = quantile(freedom, 1.0 - TAIL) * math.sqrt(sum(parts))
    smallest, largest = gap - error, gap + error
    apart, spread = mine - float(retrained.mean()), reach(retrained)
    if smallest <= 0.0:
        value = apart / gap if gap > 0.0 else math.nan
        return value, -math.inf, math.inf, False
    bottom, top = apart - spread, apart + spread
    low = bottom / (largest if bottom > 0.0 else smallest)
    high = top / (smallest if top > 0.0 else largest)
    return apart / gap, low, high, True


def _rank(value: float, others: np.ndarray) -> float:
    return float((1 + (others >= value).sum()) / (1 + len(others)))
