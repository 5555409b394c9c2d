"""Which outputs are of forget samples and which of unseen images, and what each model was made
from.

The optional column `set` says the first: `forget` (the default), `retain`, `validation` or `test`.
No model was trained on images of the last two. RMIA takes `validation` images as its z, so that
`test` images stay for comparisons. The optional column `parent` says the second.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .fragments import opened, schema_of
from .measured import IDENTITY
from .sources import ParquetFiles, Source, Tables
from .table import towards_schema

SETS = ("forget", "retain", "validation", "test")
FORGET = "forget"
MIXED_ROWS = 5_000_000  # of one file with several sets: it is held in memory
Model = tuple[str, ...]  # (role, method, params, model_id, fold)


def by_set(source: Source) -> dict[str, Source]:
    """Returns the outputs of each set, in the order of `SETS`; without a column `set`, all are
    `forget`.

    **Raises:** `ValueError` where a set has another name, or a large file mixes several.
    """
    if isinstance(source, Tables):
        return _of_tables(source)
    if not isinstance(source, ParquetFiles):
        return {FORGET: source}
    files: dict[str, list[str]] = {}
    mixed: list[pa.Table] = []
    for path in source.paths:
        names = _values(path, source)
        if len(names) == 1:
            files.setdefault(names[0], []).append(path)
            continue
        with opened(path, source.filesystem) as file:
            if file.metadata.num_rows > MIXED_ROWS:
                raise ValueError(f"set: {path} holds {', '.join(names)}; give each set its own file, as it is large")
            mixed.append(towards_schema(file.read()))
    if not mixed:
        return {name: ParquetFiles(tuple(files[name]), source.filesystem) for name in SETS if name in files}
    whole = []
    for paths in files.values():
        for path in paths:
            with opened(path, source.filesystem) as file:
                whole.append(towards_schema(file.read()))
    return _of_tables(Tables((*whole, *mixed)))


def halves(unseen: Mapping[str, Source]) -> tuple[Source | None, Source | None]:
    """Returns the unseen images that calibrate an attack, and those that comparisons are made on.

    These are the sets `validation` and `test`. Where there is only one of them, its samples are
    dealt in turn, by their ids.
    """
    first, second = unseen.get("validation"), unseen.get("test")
    if first is not None and second is not None:
        return first, second
    whole = first or second
    if whole is None:
        return None, None
    table = pa.concat_tables(whole.pieces())
    ids = table["sample_id"].to_numpy()
    odd = (np.searchsorted(np.unique(ids), ids) % 2).astype(bool)
    return Tables((table.filter(pa.array(~odd)),)), Tables((table.filter(pa.array(odd)),))


def parents_of(source: Source) -> dict[Model, str]:
    """Returns for each unlearned model the id of the original that it was made from, where a column
    `parent` says so."""
    found: dict[Model, str] = {}
    for table in _identities(source):
        if "parent" not in table.column_names:
            continue
        wanted = table.filter(pc.equal(table["role"].cast(pa.string()), "unlearned"))
        columns = [wanted[name].cast(pa.string()).to_pylist() for name in (*IDENTITY, "parent")]
        for *model, parent in set(zip(*columns, strict=True)):
            if parent:
                found[tuple(str(part) for part in model)] = parent
    return found


def _identities(source: Source) -> list[pa.Table]:
    if isinstance(source, Tables):
        return list(source.tables)
    if not isinstance(source, ParquetFiles):
        return []
    found = []
    for path in source.paths:
        names = schema_of(path, source.filesystem).names
        if "parent" in names and set(IDENTITY) <= set(names):
            found.append(_columns(path, source, [*IDENTITY, "parent"]))
    return found


def _values(path: str, source: ParquetFiles) -> list[str]:
    """Returns the sets in a file."""
    if "set" not in schema_of(path, source.filesystem).names:
        return [FORGET]
    return _sets(_columns(path, source, ["set"]))


def _columns(path: str, source: ParquetFiles, names: list[str]) -> pa.Table:
    with opened(path, source.filesystem) as file:
        return file.read(columns=names)


def _sets(table: pa.Table) -> list[str]:
    names = [FORGET if name is None else str(name) for name in pc.unique(table["set"].cast(pa.string())).to_pylist()]
    wrong = sorted(set(names) - set(SETS))
    if wrong:
        raise ValueError(f"set: {wrong[0]!r} is not allowed; allowed are {', '.join(SETS)}")
    return sorted(set(names), key=SETS.index) or [FORGET]


def _of_tables(source: Tables) -> dict[str, Source]:
    found: dict[str, list[pa.Table]] = {}
    for table in source.tables:
        if "set" not in table.column_names:
            found.setdefault(FORGET, []).append(table)
            continue
        column = pc.fill_null(table["set"].cast(pa.string()), FORGET)
        for name in _sets(table):
            found.setdefault(name, []).append(table.filter(pc.equal(column, name)))
    return {name: Tables(tuple(found[name])) for name in SETS if name in found}
