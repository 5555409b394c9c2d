"""How many of millions of values each of many others reaches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

TABLE_FROM = 1 << 15  # values; a search through fewer stays in the cache
MOST_CELLS = 1 << 23
TAIL = 10_000  # one of so many values lies below the first cell, and one above the last


@dataclass(frozen=True)
class _Table:
    """Cells of equal width. `before`: how many values lie before each cell, int32
    `(cells + 1,)`."""

    low: float
    scale: float
    before: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> _Table:
        edge, cells = len(values) // TAIL, min(MOST_CELLS, len(values))
        low, high = float(values[edge]), float(values[-1 - edge])
        scale = cells / (high - low) if high > low else 0.0
        empty = cls(low, scale, np.zeros(cells + 1, dtype=np.int32))
        counts = np.bincount(empty.cells(values), minlength=cells)
        np.cumsum(counts, out=empty.before[1:])
        return empty

    def cells(self, values: np.ndarray) -> np.ndarray:
        """Returns the cell of each value, int32; never a lower one for a larger value."""
        with np.errstate(over="ignore"):  # what lies beyond all numbers lies in the last cell
            places = (values - self.low) * self.scale
        # fmax also takes NaN, which no integer is, to the first cell.
        return np.fmin(np.fmax(places, 0.0), len(self.before) - 2).astype(np.int32)


@dataclass(frozen=True)
class Ascending:
    """Finite values, float64 `(n,)`, in ascending order.

    A value is looked for among the few that share a cell of a table with it. A search through
    millions would wait for memory, and guess the next half wrong, at every step.
    """

    values: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Ascending:
        """Sorts values; NaN is left out."""
        return cls(np.sort(values[~np.isnan(values)]))

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def _table(self) -> _Table:
        return _Table.of(self.values)

    def reached(self, wanted: np.ndarray) -> np.ndarray:
        """Returns how many of the values are at most each of `wanted`, integers `(m,)`; of NaN the
        answer means nothing."""
        if len(self.values) < TABLE_FROM:
            return np.searchsorted(self.values, wanted, side="right")
        cell = self._table.cells(wanted)
        found, ends = self._table.before[cell], self._table.before[cell + 1]
        place = np.flatnonzero(found < ends)
        low, high, left = found[place], ends[place], wanted[place]
        while len(place):  # halves what is left of each cell
            middle = (low + high) >> 1
            at_most = self.values[middle] <= left
            low, high = np.where(at_most, middle + 1, low), np.where(at_most, high, middle)
            found[place] = low
            more = np.flatnonzero(low < high)
            place, low, high, left = place[more], low[more], high[more], left[more]
        return found
