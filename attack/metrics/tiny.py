"""The share of tiny membership scores, which over-fitted unlearning shows as a pile near 0."""

from __future__ import annotations

import numpy as np

from .areas import DRAWS
from .bootstrap import beyond_interval, resampled_tpr, resampled_weights
from .evaluation import Scores
from .t_intervals import Shares

TINY = 0.05
LEAST_OUTPUTS = 19  # of fewer the smallest lies above the 5th percentile on average


def tiny_scores(
    positive: Scores, negative: Scores, seed: int, draws: int = DRAWS
) -> tuple[float | None, list[float] | None, list[float]]:
    """Returns the share of a model's outputs that score under the 5th percentile of retrained
    models' outputs.

    It is 0.05 where unlearned models cannot be told from retrained ones. A pile of scores that are
    too small (the Streisand effect, supplement Fig. 3) lifts it though the AUC may still look well.

    **Returns:** the mean over models, its 95 % interval over models of both sides (None where one
    has a single model), the value of each model. None and no values where retrained models have
    fewer than 19 outputs together.
    """
    if len(negative.scores) < LEAST_OUTPUTS:
        return None, None, []
    # The estimate whose share of the distribution is 5 % on average, however few outputs there are.
    floor = np.quantile(negative.scores, TINY, method="weibull")
    members, others = positive.by_model()[1], negative.by_model()[1]
    # Tied scores at the floor count in part, so that equal distributions give 0.05 also where
    # scores are coarse.
    under, at = (float((test(negative.scores, floor)).mean()) for test in (np.less, np.equal))
    weight = (TINY - under) / at if at else 0.0
    shares = [float((scores < floor).mean() + weight * (scores == floor).mean()) for scores in members]
    fewest = min(len(members), len(others))
    interval = None
    if fewest > 1:
        generator = np.random.default_rng(seed)
        rows, columns = (resampled_weights(len(side), draws, generator) for side in (members, others))
        # The share under a floor is the rate of those above a threshold, of scores turned round.
        mine, theirs = ([-scores for scores in side] for side in (members, others))
        [resampled] = resampled_tpr(mine, theirs, rows, columns, [TINY], ties=True)
        sizes = np.asarray([len(scores) for scores in members], dtype=np.float64)
        beyond = Shares(np.asarray(shares) * sizes, sizes)
        interval = beyond_interval(resampled, fewest, beyond, TINY * len(negative.scores))
    return float(np.mean(shares)), interval, shares
