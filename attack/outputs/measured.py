"""φ and the entropy of every model on every sample: what one pass over the logits leaves, and most
attacks work on.

Attacks that read these take a table or a `Measured`. `Measured.of` is their door: behind it there
is one form only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa

from .confidence import entropy, phi
from .table import coded_column, finite_logits, label_columns, rows_where

IDENTITY = ("role", "method", "params", "model_id", "fold")
ROLE, METHOD, PARAMS, MODEL_ID, FOLD = range(5)


@dataclass(frozen=True)
class Measured:
    """Outputs on a grid of models × samples, without their logits: 16 bytes a row.

    **Arguments:**

    - `models`: (role, method, params, model_id, fold) of each, `M` of them. `samples`, `labels`:
        int64 `(S,)`.
    - `phi`: logit-scaled confidence, float64 `(M, S)`, NaN where the label's class has no logit.
    - `entropy`: in nats, float64 `(M, S)`.
    - `present`: which cells of the grid there is a row for, bool `(M, S)`. None: all.
    - `rows`: the cell of each row of the table that it was made from, int64 `(rows,)`. None: all,
        in the grid's order.

    The grid's order is that of the first model's samples, then the second's, and so on.
    """

    models: list[tuple[str, ...]]
    samples: np.ndarray
    labels: np.ndarray
    phi: np.ndarray
    entropy: np.ndarray
    present: np.ndarray | None = None
    rows: np.ndarray | None = None

    @classmethod
    def of(
        cls, outputs: pa.Table | Measured, reads: Literal["phi", "entropy"] = "phi", **allowed: str | Sequence[str]
    ) -> Measured:
        """Returns outputs as a grid.

        **Arguments:** what a table is read for; a `Measured` is returned as it is.

        - `reads`: what is needed; the other is left NaN.
        - `allowed`: only these rows, for example `role="original"`. Others are not looked at.

        **Raises:** `ValueError` where a logit is not finite, or a model has a sample twice.
        """
        if isinstance(outputs, Measured):
            return outputs
        table = rows_where(outputs, **allowed)
        keys, model_of = identified(table)
        order = sorted(range(len(keys)), key=keys.__getitem__)
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        samples, sample_of = coded_column(table, "sample_id")
        cells = rank[model_of] * len(samples) + sample_of
        shape = (len(keys), len(samples))
        counts = np.bincount(cells, minlength=shape[0] * shape[1])
        if len(cells) and counts.max() > 1:
            raise ValueError("sample_id: a model has the same sample twice; give each (model, sample) once")

        def spread(values: np.ndarray | None) -> np.ndarray:
            grid = np.full(shape[0] * shape[1], np.nan)
            if values is not None:
                grid[cells] = values
            return grid.reshape(shape)

        labels = np.zeros(len(samples), dtype=np.int64)
        labels[sample_of] = table["label"].to_numpy()
        logits = finite_logits(table)
        return cls(
            [keys[m] for m in order],
            samples.astype(np.int64),
            labels,
            spread(_phi(table, logits) if reads == "phi" else None),
            spread(entropy(logits) if reads == "entropy" else None),
            None if len(cells) == len(counts) else (counts > 0).reshape(shape),
            cells,
        )

    def __len__(self) -> int:
        if self.rows is not None:
            return len(self.rows)
        return len(self.models) * len(self.samples) if self.present is None else int(self.present.sum())

    def where(self, **allowed: str | Sequence[str]) -> np.ndarray:
        """Returns the indices of the models whose identity has one of the values allowed, for
        example `role="original"`."""
        wanted = {n: {values} if isinstance(values, str) else set(values) for n, values in allowed.items()}
        kept = [
            index
            for index, model in enumerate(self.models)
            if all(model[IDENTITY.index(name)] in values for name, values in wanted.items())
        ]
        return np.asarray(kept, dtype=np.int64)

    def only(self, models: np.ndarray) -> Measured:
        """Returns the models at these indices, in the grid's order; a view where they follow each
        other."""
        if len(models) and (np.diff(models) == 1).all():
            part: slice | np.ndarray = slice(int(models[0]), int(models[-1]) + 1)
        else:
            part = models
        return replace(
            self,
            models=[self.models[m] for m in models],
            phi=self.phi[part],
            entropy=self.entropy[part],
            present=None if self.present is None else self.present[part],
            rows=None,
        )

    def keys(self) -> np.ndarray:
        """Returns what names each model among references, `(M,)`: ids are unique within a role."""
        return np.asarray([f"{model[ROLE]}/{model[MODEL_ID]}" for model in self.models], dtype=object)

    def margins(self, attack: str) -> np.ndarray:
        """Returns φ, float64 `(M, S)`, for an attack that reads the label's own logit; NaN where
        there is no row.

        **Raises:** `ValueError` where a label's class was dropped from the logits.
        """
        unknown = np.isnan(self.phi)
        missing = int((unknown if self.present is None else unknown & self.present).sum())
        if missing:
            raise ValueError(
                f"{attack}: the label's own logit is needed, but {missing} rows are of classes dropped from the "
                "logits, or of which no column is known; use an attack that does not read it, or store the "
                "columns' classes with the table"
            )
        return self.phi

    def in_rows(self, grid: np.ndarray) -> np.ndarray:
        """Returns values of the grid, `(M, S)`, in the order of the rows, `(rows,)`."""
        if self.rows is not None:
            return np.asarray(grid.reshape(-1)[self.rows])
        return grid.reshape(-1) if self.present is None else np.asarray(grid[self.present])

    def places(self, known: np.ndarray) -> np.ndarray | slice:
        """Returns where each sample is among the sorted `known`: all of it as it is, or indices
        int64 `(S,)`.

        **Raises:** `ValueError` naming the first that is not known.
        """
        return slice(None) if np.array_equal(self.samples, known) else locate(self.samples, known)


def _phi(table: pa.Table, logits: np.ndarray) -> np.ndarray:
    """Returns φ of each row, NaN where the label's class was dropped."""
    columns = label_columns(table)
    if not len(columns) or columns.min() >= 0:
        return phi(logits, columns)
    kept = np.flatnonzero(columns >= 0)
    found = np.full(len(columns), np.nan)
    found[kept] = phi(logits[kept], columns[kept])
    return found


def identified(table: pa.Table) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """Returns the models of a table, in the order of appearance, and each row's index among them,
    int64 `(rows,)`."""
    group = np.zeros(len(table), dtype=np.int64)
    columns = []
    for name in IDENTITY:
        values, codes = coded_column(table, name)
        columns.append((values, codes))
        group = group * len(values) + codes
    _, first, places = np.unique(group, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    keys = [tuple(str(values[codes[row]]) for values, codes in columns) for row in first[order]]
    return keys, rank[places.reshape(-1)]


def locate(wanted: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Returns the index in the sorted `known` of each of `wanted`.

    **Raises:** `ValueError` naming the first that is not known.
    """
    places = np.searchsorted(known, wanted)
    missing = (places >= len(known)) | (known[np.minimum(places, len(known) - 1)] != wanted)
    if missing.any():
        raise ValueError(
            f"sample_id: {wanted[missing][0]} was not among those that the attack was fitted on ({int(missing.sum())} such)"
        )
    return places


def positions(wanted: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Returns the index in `known` of each of `wanted`, −1 where it is not there."""
    index = {value: i for i, value in enumerate(known)}
    return np.asarray([index.get(value, -1) for value in wanted], dtype=np.int64)
