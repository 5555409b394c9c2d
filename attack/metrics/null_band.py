"""What chance alone reaches in a column of a comparison: the band of models retrained from scratch.

A row of a league is a mean over models. Retrain's own row says where such a mean lies when nothing
is left to forget, and how far it moves. The band is the prediction interval of one more such row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..library import load_special
from .measure import Measure
from .t_intervals import TAIL, mean_interval


@dataclass(frozen=True)
class Band:
    """Where a row of models like Retrain's lies.

    **Arguments:**

    - `middle`: Retrain's own value.
    - `below`, `above`: how far the 95 % interval of that value reaches on each side.
    - `models`: how many models it was measured on.
    """

    middle: float
    below: float
    above: float
    models: int

    @classmethod
    def of(cls, retrain: Measure, models: int | None = None) -> Band | None:
        """Returns the band around Retrain's measure; None where nothing says how far it moves.

        Where the value is a mean over models, Student's interval of that mean is taken. An AUC's
        own interval also holds the luck of the models on the other side, which all rows share.

        **Arguments:** `models`: of Retrain, where the measure does not say how many.
        """
        values = list(retrain.by_model.values())
        count = len(values) or retrain.models or models or 0
        if retrain.value is None or count < 2:
            return None
        mean = len(values) > 1 and math.isclose(float(np.mean(values)), retrain.value, rel_tol=1e-9, abs_tol=1e-12)
        interval = tuple(mean_interval(values)) if mean else retrain.interval
        if interval is None or (mean and np.ptp(values) == 0.0):
            interval = retrain.interval
        if interval is None:
            return None
        low, high = interval
        return cls(retrain.value, max(0.0, retrain.value - low), max(0.0, high - retrain.value), count)

    def interval(self, models: int) -> tuple[float, float]:
        """Returns the 95 % prediction interval of a row of `models` models.

        Both rows move: a mean of n values varies by s²/n, the difference of two such by
        s²(1/n + 1/m). Where values are normal, this is exact.
        """
        wider = math.sqrt(1.0 + self.models / models)
        return self.middle - wider * self.below, self.middle + wider * self.above

    def p_value(self, value: float, models: int) -> float:
        """Returns how often a row of `models` retrained models lies as far out as `value`, on
        either side.

        It is below 0.05 exactly where `value` lies outside `interval`.
        """
        reach = self.above if value >= self.middle else self.below
        apart = abs(value - self.middle)
        if apart == 0.0:
            return 1.0
        if reach == 0.0:
            return 0.0
        special = load_special()
        freedom = self.models - 1
        quantile = float(special.stdtrit(freedom, 1.0 - TAIL))
        statistic = quantile * apart / (reach * math.sqrt(1.0 + self.models / models))
        return float(2.0 * special.stdtr(freedom, -statistic))
