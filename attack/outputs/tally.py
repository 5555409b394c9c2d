"""How often each model is right on its rows, and what its numbers look like: what tells a mix-up of
labels or of scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROUNDING = 1e-3  # by which a probability may exceed 1
PERCENT_ROUNDING = 5.0  # by which a row of whole percent may miss 100


@dataclass
class Tally:
    """Counts of one model's rows.

    **Arguments:** `rows`: all. `right`: the largest logit is the label's. `one_less`, `one_more`:
    it is that of the class before, or after. `probabilities`: every number is from 0 to 1, or
    none is negative and their sum is 100.
    """

    rows: int = 0
    right: int = 0
    one_less: int = 0
    one_more: int = 0
    probabilities: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def share(self, count: int) -> float:
        """Returns a count as a share of the rows; 0 where there are none."""
        return count / self.rows if self.rows else 0.0


def tallies(logits: np.ndarray, labels: np.ndarray, models: np.ndarray, classes: list[int] | None) -> dict[int, Tally]:
    """Returns the counts of each model that has rows here.

    **Arguments:** `logits` float32 `(n, C)`, `labels` int64 `(n,)`, `models` integers `(n,)`;
    `classes`: the class of each column, None where column c is class c.
    """
    said = logits.argmax(axis=1)
    if classes is not None:
        said = np.asarray(classes, dtype=np.int64)[said]
    with np.errstate(invalid="ignore", over="ignore"):
        percent = np.abs(logits.sum(axis=1, dtype=np.float64) - 100.0) < PERCENT_ROUNDING
        probabilities = (logits.min(axis=1) >= 0) & ((logits.max(axis=1) <= 1.0 + ROUNDING) | percent)
    kinds = (said == labels, said == labels - 1, said == labels + 1, probabilities)
    found, places = np.unique(models, return_inverse=True)
    counts = [np.bincount(places, minlength=len(found))]
    counts += [np.bincount(places[kind], minlength=len(found)) for kind in kinds]
    return {int(model): Tally(*(int(c[i]) for c in counts)) for i, model in enumerate(found)}
