"""Parquet outputs in fragments: what can be dealt out to workers from the files' footers alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .confidence import probabilities
from .table import coded_column, towards_schema

BATCH_VALUES = 2_000_000  # logits in one piece: 8 MB


@dataclass(frozen=True)
class Fragment:
    """Rows `start` to `stop` of one row group of a Parquet file: the unit that is dealt out to
    workers."""

    path: str
    group: int
    start: int
    stop: int


def fragments(
    paths: Sequence[str],
    filesystem: Any = None,
    *,
    roles: Sequence[str] | None = None,
    folds: Sequence[str] | None = None,
    least: int = 1,
) -> list[Fragment]:
    """Returns the row groups that may hold rows of `roles` and `folds`, from the files' footers
    alone.

    Where there are fewer than `least`, each is divided into ranges of rows.
    """
    found = []
    for path in paths:
        with opened(path, filesystem) as file:
            metadata, schema = file.metadata, file.schema_arrow
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            if row_group.num_rows and all(
                _may_hold(row_group, schema, name, allowed) for name, allowed in (("role", roles), ("fold", folds))
            ):
                found.append(Fragment(path, group, 0, row_group.num_rows))
    pieces = -(-least // len(found)) if found else 1
    return [piece for part in found for piece in _divided(part, pieces)]


def _divided(part: Fragment, pieces: int) -> list[Fragment]:
    edges = np.linspace(part.start, part.stop, min(pieces, part.stop - part.start) + 1).round().astype(int)
    return [Fragment(part.path, part.group, int(a), int(b)) for a, b in pairwise(edges)]


def _may_hold(row_group: Any, schema: pa.Schema, name: str, allowed: Sequence[str] | None) -> bool:
    """Says whether a row group's statistics leave open that it holds one of the values allowed."""
    if allowed is None:
        return True
    statistics = _statistics(row_group, schema, name)
    return statistics is None or any(statistics.min <= value <= statistics.max for value in allowed)


def _only_value(row_group: Any, schema: pa.Schema, name: str) -> Any:
    """Returns the one value that all rows of a row group have, None where its statistics do not say
    that."""
    statistics = _statistics(row_group, schema, name)
    alone = statistics is not None and statistics.min == statistics.max and statistics.null_count == 0
    return statistics.min if alone else None


def _statistics(row_group: Any, schema: pa.Schema, name: str) -> Any:
    """Returns a column's statistics, None where there is no smallest and largest value in them."""
    for index in range(row_group.num_columns):
        column = row_group.column(index)
        if column.path_in_schema == name:
            statistics = column.statistics
            return None if statistics is None or not statistics.has_min_max else statistics
    raise ValueError(f"{name}: the column is missing; there are {', '.join(schema.names)}")


def models_of(paths: Sequence[str], filesystem: Any = None, *, roles: Sequence[str] | None = None) -> pa.Table:
    """Returns each role, model_id and fold that rows of `roles` (None: of all) have together, once.

    From the footers where a row group is of one model, else from these three columns.
    """
    names = ("role", "model_id", "fold")
    found: set[tuple[str, ...]] = set()
    for path in paths:
        with opened(path, filesystem) as file:
            metadata, schema = file.metadata, file.schema_arrow
        mixed = []
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            if not row_group.num_rows or not _may_hold(row_group, schema, "role", roles):
                continue
            alone = tuple(_only_value(row_group, schema, name) for name in names)
            if None in alone:
                mixed.append(group)
            else:
                found.add(alone)
        if mixed:
            found |= _read_triples(path, filesystem, mixed, names)
    kept = sorted(triple for triple in found if roles is None or triple[0] in roles)
    return pa.table({name: pa.array([triple[i] for triple in kept], pa.string()) for i, name in enumerate(names)})


def _read_triples(path: str, filesystem: Any, groups: Sequence[int], names: Sequence[str]) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    with opened(path, filesystem, names) as file:
        try:
            for batch in file.iter_batches(BATCH_VALUES, row_groups=list(groups), columns=list(names)):
                rows = pa.Table.from_batches([batch]).drop_null()
                columns = [coded_column(rows, name) for name in names]
                code = np.zeros(len(rows), dtype=np.int64)
                for values, codes in columns:
                    code = code * len(values) + codes
                for row in np.unique(code, return_index=True)[1]:
                    found.add(tuple(str(values[codes[row]]) for values, codes in columns))
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(path, error) from None
    return found


def deal(parts: Sequence[Fragment], workers: int) -> list[list[Fragment]]:
    """Returns each worker's fragments: dealt round in file order, so that every worker gets all
    roles and folds alike."""
    return [list(parts[rank::workers]) for rank in range(workers)]


def label_classes_of(paths: Sequence[str | Path], filesystem: Any = None) -> int:
    """Returns how many classes the one-hot label needs, from the files' schema and statistics where
    they have them."""
    widest = 0
    for path in paths:
        with opened(path, filesystem) as file:
            widest = max(widest, _width(file))
            for group in range(file.metadata.num_row_groups):
                row_group = file.metadata.row_group(group)
                column = next(
                    c for c in map(row_group.column, range(row_group.num_columns)) if c.path_in_schema == "label"
                )
                if column.statistics is not None and column.statistics.has_min_max:
                    top = column.statistics.max
                else:
                    top = pc.max(file.read_row_group(group, columns=["label"])["label"]).as_py()
                widest = max(widest, int(top if top is not None else -1) + 1)
    return widest


def softmax_width(paths: Sequence[str | Path], forget_classes: Sequence[int] = (), filesystem: Any = None) -> int:
    """Returns how many columns the softmax has once the forgotten classes' logits are dropped.

    **Raises:** `ValueError` where files differ in the number of logits.
    """
    widths = set()
    for path in paths:
        widths.add(probabilities(schema_of(path, filesystem).empty_table(), forget_classes).shape[1])
    if len(widths) != 1:
        raise ValueError(
            f"logits: {len(widths)} widths ({', '.join(map(str, sorted(widths)))}) in the files; one is needed"
        )
    return widths.pop()


def pieces(
    part: Fragment, filesystem: Any, columns: Sequence[str] | None, dictionaries: Sequence[str] = ()
) -> Iterator[pa.Table]:
    """Yields a fragment's rows in order, in pieces of about `BATCH_VALUES` logits, with types
    brought to the schema's.

    **Arguments:** `columns`: to read, None for all. `dictionaries`: text columns to leave
    dictionary-encoded.

    **Raises:** `ValueError` naming the file where it is damaged.
    """
    if part.group < 0:  # a worker without fragments
        return
    with opened(part.path, filesystem, dictionaries) as file:
        size = max(1, BATCH_VALUES // max(1, _width(file)))
        position = 0
        try:
            for batch in file.iter_batches(size, row_groups=[part.group], columns=columns):
                start, stop = max(part.start - position, 0), min(part.stop - position, len(batch))
                position += len(batch)
                if start < stop:
                    yield towards_schema(pa.Table.from_batches([batch.slice(start, stop - start)]))
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(part.path, error) from None


def opened(path: str | Path, filesystem: Any = None, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """Returns an open Parquet file.

    **Raises:** `ValueError` naming the file where it is no Parquet.
    """
    try:
        return pq.ParquetFile(str(path), filesystem=filesystem, read_dictionary=list(dictionaries) or None)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from None


def schema_of(path: str | Path, filesystem: Any = None) -> pa.Schema:
    """Returns the schema that `pieces` yields."""
    with opened(path, filesystem) as file:
        schema = towards_schema(file.schema_arrow.empty_table()).schema
        kind = schema.field("logits").type if "logits" in schema.names else pa.null()
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            # A list of no stated length: the first row says how long, and `check` holds all others
            # to it.
            for batch in file.iter_batches(1, columns=["logits"]):
                logits = towards_schema(pa.Table.from_batches([batch])).schema.field("logits")
                return schema.set(schema.get_field_index("logits"), logits)
    return schema


def _width(file: pq.ParquetFile) -> int:
    kind = file.schema_arrow.field("logits").type
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    first = next(file.iter_batches(1, columns=["logits"]), None)
    return 0 if first is None else len(first.column(0)[0] or ())


def _unreadable(path: str | Path, error: Exception) -> ValueError:
    lines = str(error).strip().splitlines()
    return ValueError(f"{path}: cannot be read as Parquet: {lines[0] if lines else type(error).__name__}")
