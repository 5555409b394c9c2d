"""The outputs table: one row for each (model, forget sample), the one input of every attack."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ROLES = ("original", "retrained", "unlearned")
FOLDS = ("train", "validation", "test")
TEXTS = ("model_id", "role", "method", "params", "fold")
# schema metadata: which class each column of the logits is, where some were dropped
CLASSES_KEY = b"attack.classes"
BLOCK_VALUES = 4_000_000  # logits turned into float64 at a time: 32 MB


def OUTPUTS_SCHEMA(num_classes: int) -> pa.Schema:
    """Returns the schema of outputs with `num_classes` logits a row."""
    return pa.schema(
        [
            ("model_id", pa.string()),
            ("role", pa.string()),
            ("method", pa.string()),
            ("params", pa.string()),
            ("fold", pa.string()),
            ("sample_id", pa.int64()),
            ("label", pa.int64()),
            ("logits", pa.list_(pa.float32(), num_classes)),
        ]
    )


def outputs_table(
    model_id: str,
    role: str,
    method: str,
    params: str,
    fold: str,
    sample_ids: np.ndarray,
    labels: np.ndarray,
    logits: np.ndarray,
    classes: Sequence[int] | None = None,
) -> pa.Table:
    """Returns one model's outputs.

    **Arguments:**

    - `sample_ids`, `labels`: integers `(n,)`. `logits`: `(n, C)`, stored as float32.
    - `params`: the method's parameters as JSON text, `{}` where there are none.
    - `classes`: in class removal, the class that each column of the logits stands for. The
        forgotten ones are dropped from every model alike, so that the width is uniform. Labels stay
        the original ones. None: column c is class c.

    **Raises:** `ValueError` for an unknown role or fold, or arrays of different lengths.
    """
    if role not in ROLES:
        raise ValueError(f"role: {role!r} is not allowed; allowed are {', '.join(ROLES)}")
    if fold not in FOLDS:
        raise ValueError(f"fold: {fold!r} is not allowed; allowed are {', '.join(FOLDS)}")
    logits = np.ascontiguousarray(logits, dtype=np.float32)
    count = len(sample_ids)
    if logits.ndim != 2 or len(logits) != count or len(labels) != count:
        raise ValueError(f"logits: shape {logits.shape} does not fit {count} sample ids and {len(labels)} labels")

    def constant(text: str) -> pa.Array:
        return pa.repeat(pa.scalar(text, pa.string()), count)

    columns = [
        constant(model_id),
        constant(role),
        constant(method),
        constant(params),
        constant(fold),
        pa.array(np.asarray(sample_ids, dtype=np.int64)),
        pa.array(np.asarray(labels, dtype=np.int64)),
        pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), logits.shape[1]),
    ]
    return with_classes(pa.Table.from_arrays(columns, schema=OUTPUTS_SCHEMA(logits.shape[1])), classes)


def with_classes(table: pa.Table, classes: Sequence[int] | None) -> pa.Table:
    """Returns the table with a note of which class each column of its logits is; unchanged where
    `classes` is None.

    **Raises:** `ValueError` where there is not one class for each column.
    """
    if classes is None:
        return table
    width = table.schema.field("logits").type.list_size
    if len(classes) != width:
        raise ValueError(f"classes: {len(classes)} are given for {width} columns of logits")
    note = {CLASSES_KEY: json.dumps([int(c) for c in classes]).encode()}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **note})


def towards_schema(table: pa.Table) -> pa.Table:
    """Returns the table with common spellings of types brought to the schema's; what cannot be is
    left, for `check` to name.

    A list of numbers of one length becomes the fixed-size list of float32; other integers become
    int64. `method` and `params` may be null for originals and retrained models: no method made
    them.
    """
    wanted = OUTPUTS_SCHEMA(1)
    table = without_null_methods(table)
    for name in ("sample_id", "label"):
        if name in table.column_names:
            kind = table.schema.field(name).type
            if pa.types.is_integer(kind) and not pa.types.is_int64(kind):
                index = table.schema.get_field_index(name)
                table = table.set_column(index, wanted.field(name), table[name].cast(pa.int64()))
    if "logits" not in table.column_names:
        return table
    kind = table.schema.field("logits").type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type):
        return table
    if pa.types.is_fixed_size_list(kind) and pa.types.is_float32(kind.value_type):
        return table
    column = table["logits"].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], kind)
    if column.null_count:
        return table
    lengths = (
        np.unique(np.asarray(column.value_lengths()))
        if len(column)
        else np.asarray([kind.list_size] if pa.types.is_fixed_size_list(kind) else [])
    )
    if len(lengths) == 1:
        fixed = pa.FixedSizeListArray.from_arrays(column.flatten().cast(pa.float32()), int(lengths[0]))
        table = table.set_column(table.schema.get_field_index("logits"), "logits", fixed)
    return table


def without_null_methods(table: pa.Table) -> pa.Table:
    """Fills a null `method` or `params` of originals and retrained models; those of unlearned ones
    stay, for `check` to name."""
    for name, nothing in (("method", ""), ("params", "{}")):
        if name not in table.column_names:
            continue
        if pa.types.is_null(table.schema.field(name).type):
            table = _replaced(table, name, table[name].cast(pa.string()))
        if table[name].null_count and "role" in table.column_names:
            text = table[name].cast(pa.string())
            unmade = pc.and_(pc.is_null(text), pc.is_in(table["role"].cast(pa.string()), pa.array(ROLES[:2])))
            table = _replaced(table, name, pc.if_else(unmade, nothing, text))
    return table


def _replaced(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), pa.field(name, column.type), column)


def logits_matrix(table: pa.Table) -> np.ndarray:
    """Returns the logits as float32 `(rows, C)`, without a copy where the table is in one chunk."""
    column = table["logits"]
    width = column.type.list_size
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    if not chunks:
        return np.empty((0, width), dtype=np.float32)
    flat = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
    return flat.reshape(-1, width)


def finite_logits(table: pa.Table) -> np.ndarray:
    """Returns `logits_matrix`, for attacks: a NaN would pass as a sample that a model lacks, or as
    a score.

    **Raises:** `ValueError` where a logit is not finite, naming the first such row.
    """
    return require_finite(table, logits_matrix(table))


def require_finite(table: pa.Table, logits: np.ndarray) -> np.ndarray:
    """Returns `logits`, which are columns of the table's, where all are finite.

    **Raises:** `ValueError` where one is not, naming the first such row.
    """
    with np.errstate(invalid="ignore"):
        # A sum is finite only where all of its terms are; float64 holds any sum of float32 without
        # overflow.
        bad = ~np.isfinite(logits.sum(axis=1, dtype=np.float64))
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"logits: {int(bad.sum())} rows are not finite, the first for sample_id {table['sample_id'][first].as_py()} of model "
            f"{table['model_id'][first].as_py()!r}"
        )
    return logits


def coded_column(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns a column's distinct values, sorted, and each row's index into them, int64
    `(rows,)`."""
    if len(table) == 0:
        return np.empty(0, dtype=object), np.empty(0, dtype=np.int64)
    # Encoded before the chunks are joined: the joined text of a long table may be too long for one
    # Arrow array.
    encoded = table[name].dictionary_encode().unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    values = encoded.dictionary.to_numpy(zero_copy_only=False)
    order = np.argsort(values, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    used = np.zeros(len(values), dtype=bool)
    used[codes] = True
    if used.all():
        return values[order], rank[codes]
    kept = values[order][used[order]]  # a filtered dictionary may hold values that no row has
    return kept, (np.cumsum(used[order]) - 1)[rank[codes]]


def rows_where(table: pa.Table, **allowed: str | Sequence[str]) -> pa.Table:
    """Returns the rows whose columns hold one of the values allowed, for example
    `role="original"`."""
    mask: pa.ChunkedArray | None = None
    for name, values in allowed.items():
        listed = [values] if isinstance(values, str) else list(values)
        found = pc.is_in(table[name], value_set=pa.array(listed, pa.string()))
        mask = found if mask is None else pc.and_(mask, found)
    return table if mask is None else table.filter(mask)


def label_columns(table: pa.Table) -> np.ndarray:
    """Returns the column of the logits that stands for each row's label, int64 `(rows,)`; −1 where
    it was dropped.

    **Raises:** `ValueError` where a label lies outside the table's classes although none was
    dropped.
    """
    labels = table["label"].to_numpy()
    width = table["logits"].type.list_size
    classes = logit_classes(table)
    if classes is not None:
        position = {c: i for i, c in enumerate(classes)}
        values, inverse = np.unique(labels, return_inverse=True)
        return np.asarray([position.get(int(v), -1) for v in values], dtype=np.int64)[inverse]
    if len(labels) and (labels.min() < 0 or labels.max() >= width):
        worst = int(labels.min() if labels.min() < 0 else labels.max())
        raise ValueError(
            f"label: {worst} lies outside 0 … {width - 1}, the columns of the logits; "
            "where forgotten classes were dropped, use an attack that does not read the label's logit"
        )
    return labels.astype(np.int64, copy=False)


def logit_classes(table: pa.Table) -> list[int] | None:
    """Returns the class of each column of the logits where the table says so, else None (column c
    is class c)."""
    metadata = table.schema.metadata or {}
    return list(json.loads(metadata[CLASSES_KEY])) if CLASSES_KEY in metadata else None
