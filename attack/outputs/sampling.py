"""A random part of a table's rows, the same however the table is divided, in whatever order it is
read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from .sources import Source
from .table import coded_column

# what tells one model's rows from another's among those that are fitted on
IDENTITY = ("role", "model_id")


def drawn(rows: pa.Table, share: float, seed: int) -> np.ndarray:
    """Says of each row of outputs whether it is one of a random `share` of all rows, bool
    `(rows,)`.

    A row is drawn by a hash of its model, its sample and `seed` alone, so that workers need not
    agree on anything.

    **Arguments:** `share`: from 0 to 1.
    """
    if share >= 1.0:
        return np.ones(len(rows), dtype=bool)
    mixed = rows["sample_id"].to_numpy().astype(np.uint64)
    for name in IDENTITY:
        values, codes = coded_column(rows, name)
        digests = [hashlib.blake2b(f"{seed}/{name}/{value}".encode(), digest_size=8).digest() for value in values]
        mixed = _scattered(mixed + np.frombuffer(b"".join(digests), dtype="<u8")[codes])
    found: np.ndarray = mixed < np.uint64(int(share * 2.0**64))
    return found


def _scattered(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every bit of the result
    depends on every bit given."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: np.ndarray = values ^ (values >> np.uint64(31))
    return found


@dataclass(frozen=True)
class Sampled:
    """A source of a random `share` of another's rows, drawn by `seed`; see `drawn`."""

    source: Source
    share: float
    seed: int

    def schemas(self) -> list[pa.Schema]:
        return self.source.schemas()

    def rows(self) -> int:
        """About how many: which rows are drawn shows only when they are read."""
        return round(self.source.rows() * self.share)

    def pieces(self, roles: Sequence[str] | None = None, folds: Sequence[str] | None = None) -> Iterator[pa.Table]:
        for piece in self.source.pieces(roles, folds):
            rows = piece.filter(pa.array(drawn(piece, self.share, self.seed)))
            if len(rows):
                yield rows
