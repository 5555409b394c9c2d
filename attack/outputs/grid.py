"""Outputs as a grid of models × samples: what every per-sample attack computes on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from .measured import model_key
from .table import coded_column


@dataclass(frozen=True)
class Grid:
    """Which model and which sample each row of a table belongs to.

    **Arguments:**

    - `models`: role and id of each model, sorted, `(M,)`. `samples`: sample ids, ascending, int64 `(S,)`.
    - `model_of`, `sample_of`: each row's indices into them, int64 `(rows,)`.
    """

    models: np.ndarray
    samples: np.ndarray
    model_of: np.ndarray
    sample_of: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> Grid:
        """Returns the grid of `table`; models of the same id in two roles are two models."""
        names, name_of = coded_column(table, "model_id")
        roles, role_of = coded_column(table, "role")
        pairs, model_of = np.unique(role_of * max(1, len(names)) + name_of, return_inverse=True)
        models = np.asarray([model_key(roles[p // len(names)], names[p % len(names)]) for p in pairs], dtype=object)
        samples, sample_of = coded_column(table, "sample_id")
        return cls(models, samples, model_of.reshape(-1), sample_of)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Returns row values as float64 `(M, S)`, NaN where a model lacks a sample.

        **Raises:** `ValueError` where a model has a sample twice.
        """
        places = self.model_of * len(self.samples) + self.sample_of
        matrix = np.full(len(self.models) * len(self.samples), np.nan)
        matrix[places] = values
        if len(places) and np.bincount(places, minlength=len(matrix)).max() > 1:
            raise ValueError("sample_id: a model has the same sample twice; give each (model, sample) once")
        return matrix.reshape(len(self.models), len(self.samples))


def locate(wanted: np.ndarray, known: np.ndarray, what: str) -> np.ndarray:
    """Returns the index in the sorted `known` of each of `wanted`.

    **Raises:** `ValueError` naming the first that is not known.
    """
    places = np.searchsorted(known, wanted)
    missing = (places >= len(known)) | (known[np.minimum(places, len(known) - 1)] != wanted)
    if missing.any():
        raise ValueError(
            f"{what}: {wanted[missing][0]} was not among those that the attack was fitted on ({int(missing.sum())} such)"
        )
    return places


def positions(wanted: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Returns the index in `known` of each of `wanted`, −1 where it is not there."""
    index = {value: i for i, value in enumerate(known)}
    return np.asarray([index.get(value, -1) for value in wanted], dtype=np.int64)
