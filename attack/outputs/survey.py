"""One pass over outputs: what is wrong with them, and φ and the entropy of every row, all that most
attacks read.

A row leaves 36 bytes here, however many classes it has; the logits themselves are never held.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from .confidence import entropy, phi
from .measured import Measured, identified
from .sources import Source
from .table import label_columns, logit_classes, logits_matrix, with_classes
from .tally import Tally, tallies

MAPPED_ROWS = 10_000_000  # from so many on, arrays of rows lie in files: 360 MB


@dataclass(frozen=True)
class Finding:
    """How many rows have a fault, and the first of them: its sample, its model, and the label that
    it has."""

    count: int
    sample_id: int
    model_id: str
    label: int

    def __str__(self) -> str:
        return f"sample_id {self.sample_id} of model {self.model_id!r}"


class _Look(NamedTuple):
    """What a piece's logits and labels show: rows with each fault, bool `(rows,)`, and counts by
    model."""

    not_finite: np.ndarray
    outside: np.ndarray
    dropped: np.ndarray
    counts: dict[int, Tally]


@dataclass(frozen=True)
class _Wanted:
    """What is asked of every piece; `limit`: labels are to be below it."""

    limit: int | None
    confidences: bool
    columns_known: bool


@dataclass
class Survey:
    """What one pass found. Arrays are in the order of the rows; `measured` puts them on a grid of
    models and samples.

    **Arguments:**

    - `models`: (role, method, params, model_id, fold) of each model, in the order of appearance.
    - `model_of` int32, `sample_of` and `label_of` int64, `phi` and `entropy` float64: of each row.
    - `nulls`: column → rows that are null; `ragged`: rows differ in how many logits they have. Then
        nothing else was looked at.
    - `not_finite`, `outside`, `dropped`: rows whose logits are not finite, whose label lies outside
        the classes, whose label's class has no column.
    - `tallies`: each model's counts of right rows, by its place in `models`; empty where columns
        are of unknown classes.
    """

    width: int
    classes: list[int] | None
    models: list[tuple[str, ...]]
    model_of: np.ndarray
    sample_of: np.ndarray
    label_of: np.ndarray
    phi: np.ndarray
    entropy: np.ndarray
    nulls: dict[str, int] = field(default_factory=dict)
    ragged: bool = False
    not_finite: Finding | None = None
    outside: Finding | None = None
    dropped: Finding | None = None
    tallies: dict[int, Tally] = field(default_factory=dict)

    @classmethod
    def of(
        cls, source: Source, num_classes: int | None = None, *, confidences: bool = True, threads: int = 1
    ) -> Survey:
        """Reads the source once.

        **Arguments:** `num_classes`: how many classes labels may be of; None: what the logits'
        columns say. Where there are more of them than columns, and the tables do not say which
        classes these are, φ is NaN. `confidences`: also φ and the entropy; without them, NaN.
        `threads`: that look at pieces beside the one that reads; the result is the same.
        """
        rows = source.rows()
        schema = next((s for s in source.schemas()), pa.schema([]))
        empty = schema.empty_table()
        width, classes = empty.schema.field("logits").type.list_size, logit_classes(empty)
        limit = num_classes if num_classes is not None else None if classes is not None else width
        # Fewer columns than classes, and no word of which they are: column c need not be class c,
        # so no φ can be read.
        columns_known = classes is not None or num_classes is None or num_classes <= width
        found = cls(
            width,
            classes,
            [],
            column(rows, np.int32),
            column(rows, np.int64),
            column(rows, np.int64),
            column(rows, np.float64, np.nan),
            column(rows, np.float64, np.nan),
        )
        wanted = _Wanted(limit, confidences, columns_known)
        known: dict[tuple[str, ...], int] = {}
        position = 0
        looks: deque[tuple[int, Future[_Look]]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for piece in source.pieces():
                for name in piece.column_names:
                    if piece[name].null_count:
                        found.nulls[name] = found.nulls.get(name, 0) + piece[name].null_count
                kind = piece.schema.field("logits").type
                found.ragged |= not pa.types.is_fixed_size_list(kind) or kind.list_size != width
                if not found.nulls and not found.ragged:
                    part = slice(position, position + len(piece))
                    found.model_of[part] = found._codes(piece, known)
                    found.sample_of[part] = piece["sample_id"].to_numpy()
                    found.label_of[part] = piece["label"].to_numpy()
                    looks.append((position, pool.submit(found._look, piece, part, wanted)))
                    if len(looks) > threads:  # no more pieces are held than are worked at, and one
                        found._note(*looks.popleft())
                position += len(piece)
            while looks:
                found._note(*looks.popleft())
        return found

    def _look(self, piece: pa.Table, rows: slice, wanted: _Wanted) -> _Look:
        """Looks at a piece's logits, and enters φ and the entropy of its rows.

        It reads and writes nothing of other rows, so pieces may be looked at side by side.
        """
        labels, limit = self.label_of[rows], wanted.limit
        logits = logits_matrix(piece)
        # A sum of float32 in float64 is finite only where all of its terms are.
        with np.errstate(invalid="ignore"):
            bad = ~np.isfinite(logits.sum(axis=1, dtype=np.float64))
        outside = (labels < 0) | (labels >= limit) if limit is not None else labels < 0
        without = ~np.isin(labels, self.classes) if self.classes is not None else (labels < 0) | (labels >= self.width)
        counts = tallies(logits, labels, self.model_of[rows], self.classes) if wanted.columns_known else {}
        if wanted.confidences and not bad.any():
            self.entropy[rows] = entropy(logits)
            if wanted.columns_known and not without.any():
                # The first part's classes stand for all, as `check` sees to: a piece may have lost
                # its own note of them.
                self.phi[rows] = phi(logits, label_columns(with_classes(piece, self.classes)))
        return _Look(bad, outside, without, counts)

    def _note(self, position: int, future: Future[_Look]) -> None:
        """Adds what a piece showed; pieces come in their order."""
        look = future.result()
        self.not_finite = self._first(self.not_finite, look.not_finite, position)
        self.outside = self._first(self.outside, look.outside, position)
        self.dropped = self._first(self.dropped, look.dropped, position)
        for code, tally in look.counts.items():
            self.tallies[code] = self.tallies.get(code, Tally()) + tally

    def _codes(self, piece: pa.Table, known: dict[tuple[str, ...], int]) -> np.ndarray:
        """Returns each row's model, new ones entered into `known`."""
        keys, places = identified(piece)
        for key in keys:
            if key not in known:
                known[key] = len(known)
                self.models.append(key)
        return np.asarray([known[key] for key in keys], dtype=np.int32)[places]

    def _first(self, before: Finding | None, wrong: np.ndarray, position: int) -> Finding | None:
        count = int(wrong.sum())
        if not count:
            return before
        if before is not None:
            return Finding(before.count + count, before.sample_id, before.model_id, before.label)
        row = position + int(np.flatnonzero(wrong)[0])
        model = self.models[self.model_of[row]]
        return Finding(count, int(self.sample_of[row]), model[3], int(self.label_of[row]))

    def feature_values(self) -> int:
        """Returns how many numbers the shadow attack would see: rows × (logits, and a column for
        each class that labels name)."""
        top = int(self.label_of.max()) + 1 if len(self.label_of) else 0
        return len(self.label_of) * (self.width + max(self.width, top))

    @cached_property
    def samples(self) -> np.ndarray:
        """The sample ids, ascending, int64 `(S,)`."""
        if self.regular:
            return np.sort(self.sample_of[: len(self.model_of) // len(self.models)])
        return np.unique(self.sample_of)

    @cached_property
    def regular(self) -> bool:
        """Whether the rows are whole models, one after another, all with the same samples in the
        same order."""
        count = len(self.models)
        if not count or len(self.model_of) % count:
            return False
        models, ids = self.model_of.reshape(count, -1), self.sample_of.reshape(count, -1)
        alike = all(
            (mine == mine[0]).all() and np.array_equal(theirs, ids[0]) for mine, theirs in zip(models, ids, strict=True)
        )
        return alike and len(np.unique(ids[0])) == ids.shape[1] and len(np.unique(models[:, 0])) == count

    @cached_property
    def cells(self) -> np.ndarray:
        """Each row's place in the grid of models (as they appear) × samples, int64 `(rows,)`."""
        return self.model_of * np.int64(len(self.samples)) + np.searchsorted(self.samples, self.sample_of)

    def measured(self) -> Measured:
        """Returns φ and the entropy on a grid, models in the order of (role, method, params,
        model_id, fold).

        Needs every model to have every sample once.
        """
        order = np.asarray(sorted(range(len(self.models)), key=lambda m: self.models[m]), dtype=np.int64)
        count, samples = len(self.models), self.samples
        grids = []
        labels = np.empty(len(samples), dtype=np.int64)
        if self.regular:
            ids = self.sample_of[: len(samples)]
            by_id = np.argsort(ids, kind="stable")
            sorted_ids = bool((np.diff(by_id) == 1).all())
            places = np.empty(count, dtype=np.int64)  # where each model's rows lie
            places[self.model_of[:: len(samples)]] = np.arange(count)
            rows = places[order]
            in_order = sorted_ids and bool((rows == np.arange(count)).all())
            for values in (self.phi, self.entropy):
                grid = values.reshape(count, -1)
                grids.append(grid if in_order else _moved(grid, rows, None if sorted_ids else by_id))
            labels[:] = self.label_of[: len(samples)][by_id]
        else:
            rank = np.empty(count, dtype=np.int64)
            rank[order] = np.arange(count)
            for values in (self.phi, self.entropy):
                grid = column(count * len(samples), np.float64, np.nan)
                grid[rank[self.model_of] * len(samples) + self.cells % len(samples)] = values
                grids.append(grid.reshape(count, -1))
            labels[self.cells % len(samples)] = self.label_of
        return Measured([self.models[m] for m in order], samples, labels, *grids)


def column(rows: int, kind: type[Any], fill: float | None = None) -> np.ndarray:
    """Returns an array of so many rows, of `fill` where it is given.

    From `MAPPED_ROWS` rows on its pages are those of a file without a name in the temporary folder.
    The system writes them out when memory is short, and the file is gone with the array, however
    the process ends.
    """
    found = None
    if rows >= MAPPED_ROWS:
        try:
            with tempfile.TemporaryFile(prefix="survey-") as file:
                # Its room is taken now: on a disk that is full later, writing to the map would end
                # the process.
                os.posix_fallocate(file.fileno(), 0, rows * np.dtype(kind).itemsize)
                found = np.asarray(np.memmap(file, kind, "r+", shape=(rows,)))
        except OSError:  # no room there: memory, as for fewer rows
            found = None
    if found is None:
        found = np.empty(rows, dtype=kind)
    if fill is not None:
        found[:] = fill
    return found


def _moved(grid: np.ndarray, rows: np.ndarray, columns: np.ndarray | None) -> np.ndarray:
    """Returns the rows of a grid in this order, and the columns in that where one is given."""
    found = column(grid.size, np.float64).reshape(grid.shape)
    for place, row in enumerate(rows):
        found[place] = grid[row] if columns is None else grid[row][columns]
    return found
