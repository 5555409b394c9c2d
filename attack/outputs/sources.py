"""Where outputs come from: tables in memory, or Parquet files that are read a piece at a time, as
often as needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import pyarrow as pa

from .fragments import BATCH_VALUES, fragments, opened, pieces, schema_of
from .table import OUTPUTS_SCHEMA, TEXTS, rows_where, without_null_methods


class Source(Protocol):
    """Outputs that can be read again and again, without holding them all."""

    def schemas(self) -> list[pa.Schema]:
        """Returns the schema of each part, as `check` looks at it."""
        ...

    def rows(self) -> int:
        """Returns how many rows there are."""
        ...

    def pieces(self, roles: Sequence[str] | None = None, folds: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yields the rows of `roles` and `folds` (None: of all) in order, with the schema's
        columns, a few MB at a time."""
        ...


@dataclass(frozen=True)
class Tables:
    """Outputs in memory."""

    tables: tuple[pa.Table, ...]

    def schemas(self) -> list[pa.Schema]:
        return [table.schema for table in self.tables]

    def rows(self) -> int:
        return sum(len(table) for table in self.tables)

    def pieces(self, roles: Sequence[str] | None = None, folds: Sequence[str] | None = None) -> Iterator[pa.Table]:
        for table in self.tables:
            narrow = table.select(OUTPUTS_SCHEMA(1).names)
            size = max(1, BATCH_VALUES // max(1, table.schema.field("logits").type.list_size))
            for start in range(0, len(narrow), size):
                part = _wanted(narrow.slice(start, size), roles, folds)
                if len(part):
                    yield part


@dataclass(frozen=True)
class ParquetFiles:
    """Outputs in Parquet files. Row groups whose statistics rule the wanted rows out are not even
    opened.

    **Arguments:** `paths`: files. `filesystem`: a `pyarrow.fs` file system, where the paths do not
    say which.
    """

    paths: tuple[str, ...]
    filesystem: Any = None

    def schemas(self) -> list[pa.Schema]:
        found = {path: schema_of(path, self.filesystem) for path in self.paths}
        # A file without rows need not say how wide its logits are.
        told = [schema for path, schema in found.items() if _says_width(schema) or self._count(path)]
        return told or list(found.values())

    def rows(self) -> int:
        return sum(map(self._count, self.paths))

    def _count(self, path: str) -> int:
        with opened(path, self.filesystem) as file:
            return int(file.metadata.num_rows)

    def pieces(self, roles: Sequence[str] | None = None, folds: Sequence[str] | None = None) -> Iterator[pa.Table]:
        names = OUTPUTS_SCHEMA(1).names
        for part in fragments(self.paths, self.filesystem, roles=roles, folds=folds):
            for table in pieces(part, self.filesystem, names, dictionaries=TEXTS):
                rows = _wanted(table.select(names), roles, folds)
                if len(rows):
                    yield rows


def _says_width(schema: pa.Schema) -> bool:
    return "logits" in schema.names and pa.types.is_fixed_size_list(schema.field("logits").type)


def as_source(outputs: Source | pa.Table | Iterable[pa.Table]) -> Source:
    """Returns `outputs` as a source."""
    if isinstance(outputs, pa.Table):
        return Tables((without_null_methods(outputs),))
    if isinstance(outputs, Tables | ParquetFiles):
        return outputs
    if hasattr(outputs, "pieces"):
        return cast(Source, outputs)
    return Tables(tuple(without_null_methods(table) for table in cast(Iterable[pa.Table], outputs)))


def _wanted(table: pa.Table, roles: Sequence[str] | None, folds: Sequence[str] | None) -> pa.Table:
    allowed = {name: values for name, values in (("role", roles), ("fold", folds)) if values is not None}
    return rows_where(table, **allowed)
