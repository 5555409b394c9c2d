"""The AUC of every model under test against every retrained one, and the difference of two such
sets.

Two methods that one attacker scored against the same retrained models share the luck of those
models. Resampling the shared models together lets that luck cancel in the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bootstrap import expanded_interval, resampled_weights, weighted_means
from .roc import auc_matrix

DRAWS = 2000


@dataclass(frozen=True)
class Areas:
    """The AUC of each model under test against each retrained one.

    **Arguments:**

    - `matrix`: float64 `(models under test, retrained models)`.
    - `sizes`: how many pairs of rows are behind each AUC, same shape.
    - `negative_models`: the retrained models' ids, sorted.
    """

    matrix: np.ndarray
    sizes: np.ndarray
    negative_models: np.ndarray

    @classmethod
    def of(cls, members: Sequence[np.ndarray], others: Sequence[np.ndarray], negative_models: np.ndarray) -> Areas:
        """Returns the areas of two groups of models, given the scores of each model."""
        sizes = np.outer([len(a) for a in members], [len(b) for b in others]).astype(np.float64)
        return cls(auc_matrix(list(members), list(others)), sizes, negative_models)

    @property
    def mean(self) -> float:
        """The AUC of all rows."""
        return float((self.matrix * self.sizes).sum() / self.sizes.sum())

    def by_model(self) -> np.ndarray:
        """Returns the AUC of each model under test, float64 `(models under test,)`."""
        found: np.ndarray = (self.matrix * self.sizes).sum(axis=1) / self.sizes.sum(axis=1)
        return found

    def shares_negatives(self, other: Areas) -> bool:
        """Says whether both were measured against the same retrained models."""
        return np.array_equal(self.negative_models, other.negative_models)

    def to_json(self) -> dict[str, Any]:
        """Returns JSON data that `from_json` makes the same areas of, to the last bit."""
        return {name: getattr(self, name).tolist() for name in ("matrix", "sizes", "negative_models")}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Areas:
        """Returns the areas that `to_json` wrote."""
        matrix, sizes = (np.asarray(document[name], dtype=np.float64) for name in ("matrix", "sizes"))
        return cls(matrix, sizes, np.asarray(document["negative_models"]))


def areas_difference(mine: Areas, theirs: Areas, *, seed: int = 0, draws: int = DRAWS) -> list[float] | None:
    """Returns the 95 % interval of AUC(mine) − AUC(theirs), by a bootstrap over models.

    The shared retrained models are resampled together, so their part of the spread cancels.
    The result is None where a side has one model.

    **Raises:** `ValueError` where the retrained models are not the same.
    """
    if not mine.shares_negatives(theirs):
        raise ValueError("negative: method and reference were not measured against the same retrained models")
    fewest = min(*mine.matrix.shape, *theirs.matrix.shape)
    if fewest < 2:
        return None
    generator = np.random.default_rng(seed)
    columns = resampled_weights(mine.matrix.shape[1], draws, generator)
    means = []
    for side in (mine, theirs):
        rows = resampled_weights(side.matrix.shape[0], draws, generator)
        means.append(weighted_means(side.matrix, side.sizes, rows, columns))
    return expanded_interval(means[0] - means[1], fewest)
