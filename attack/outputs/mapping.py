"""Logits in NumPy or CSV files, named by a small mapping, as one outputs table."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .csv_files import Columns, read_csv_integers, read_csv_logits
from .table import outputs_table

MODEL_KEYS = ("model_id", "role", "fold", "method", "params", "logits", "labels", "sample_ids")
MAPPING_KEYS = ("models", "labels", "sample_ids", "classes", "columns", "header")
EXACT = 2**53  # from here on float64 leaves integers out


def read_logits(mapping: Mapping[str, Any], folder: str | Path = ".") -> pa.Table:
    """Returns the outputs table of logits kept in NumPy or CSV files.

    **Arguments:**

    - `mapping`: what lies where.
        - `models`: a list with `model_id`, `role`, `fold` and `logits` for each model. `logits` is
          a `.npy`, `.npz:name` or `.csv` file of `(n, C)` numbers. A model may have `method`,
          `params`, and its own `labels` and `sample_ids`.
        - `labels`, `sample_ids`: files of `(n,)` integers for all models. Without sample ids, rows
            are numbered.
        - `classes`: the class of each column, where forgotten classes were dropped.
        - `columns`: names of CSV columns: `label`, `sample_id`, `logits` (a list in the order of
            the classes) and `ignore`.
        - `header`: whether line 1 of the CSV files is a header. Needed only where that cannot be
            told.
    - `folder`: that relative paths start from.

    A CSV with a header may hold `label` and `sample_id` itself. Its class columns are ordered by
    the numbers in their names, and a column that is none of these is refused.

    **Raises:** `ValueError` naming the model, the key and what is allowed.
    """
    _known(mapping, MAPPING_KEYS, "mapping")
    models = mapping.get("models")
    if not isinstance(models, Sequence) or isinstance(models, str) or not models:
        raise ValueError("models: a list of models is needed, each with model_id, role, fold and logits")
    columns, classes = Columns.of(mapping), _classes(mapping.get("classes"))
    reader = _Reader(mapping, Path(folder), columns, classes)
    return pa.concat_tables([reader.model(entry, f"models.{number}") for number, entry in enumerate(models)])


class _Reader:
    """Reads the models of one mapping; files that several models share are read once."""

    def __init__(self, mapping: Mapping[str, Any], base: Path, columns: Columns, classes: list[int] | None):
        self.mapping = mapping
        self.base = base
        self.columns = columns
        self.classes = classes
        self._integers: dict[tuple[str, str], np.ndarray] = {}

    def model(self, entry: Any, where: str) -> pa.Table:
        if not isinstance(entry, Mapping):
            raise ValueError(f"{where}: {entry!r} is not allowed; give a mapping with {', '.join(MODEL_KEYS)}")
        _known(entry, MODEL_KEYS, where)
        for key in ("model_id", "role", "fold", "logits"):
            if key not in entry:
                raise ValueError(f"{where}.{key}: missing; each model needs model_id, role, fold and logits")
        logits, named = self._logits(entry["logits"], f"{where}.logits")
        rows = len(logits)
        labels = self._column(entry, named, rows, "labels", "label", where)
        ids = self._column(entry, named, rows, "sample_ids", "sample_id", where)
        if labels is None:
            raise ValueError(
                f"{where}.labels: missing; give labels for all models, for this one, or as a column of its CSV"
            )
        params = entry.get("params")
        try:
            return outputs_table(
                str(entry["model_id"]),
                entry["role"],
                str(entry.get("method") or ""),
                params if isinstance(params, str) else json.dumps(params or {}, sort_keys=True),
                entry["fold"],
                np.arange(len(logits)) if ids is None else ids,
                labels,
                logits,
                classes=self.classes,
            )
        except ValueError as error:
            raise ValueError(f"{where}.{error}") from None

    def _logits(self, source: Any, where: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        path, member = self._path(source, where)
        if path.suffix == ".csv":
            with _named(where, path):
                found = read_csv_logits(path, self.columns, self.classes)
            return found.logits, found.named
        logits = _array(path, member, where)
        if logits.ndim != 2:
            raise ValueError(f"{where}: shape {logits.shape} is not allowed; give (samples, classes)")
        if logits.dtype.kind not in "fiu":
            raise ValueError(f"{where}: {path}: {logits.dtype} is not allowed; give numbers such as float32")
        return logits, {}

    def _column(
        self, entry: Mapping[str, Any], named: Mapping[str, np.ndarray], rows: int, key: str, own: str, where: str
    ) -> np.ndarray | None:
        """Returns labels or sample ids: the CSV's own, the model's, or those of all models; None
        where there are none."""
        source = entry.get(key, self.mapping.get(key))
        given = None if source is None else self._read_integers(source, own, f"{where}.{key}")
        if given is not None and len(given) == rows + 1 and str(source).endswith(".csv"):
            raise ValueError(
                f"{where}.{key}: {source}: {rows + 1} values for {rows} rows; if its line 1 is a header, "
                "add header: true to the mapping"
            )
        mine = named.get(own)
        if mine is not None and given is not None and not np.array_equal(mine, given):
            raise ValueError(f"{where}.{key}: {source} differs from the column {own!r} of its CSV; give one of the two")
        return given if mine is None else mine

    def _read_integers(self, source: Any, own: str, where: str) -> np.ndarray:
        known = self._integers.get((str(source), own))
        if known is not None:
            return known
        path, member = self._path(source, where)
        if path.suffix == ".csv":
            with _named(where, path):
                values = read_csv_integers(path, own, self.columns)
        else:
            values = _whole(_array(path, member, where), where)
        self._integers[str(source), own] = values
        return values

    def _path(self, source: Any, where: str) -> tuple[Path, str]:
        """Returns a file and, of an `.npz`, which array; raises `ValueError` where there is
        none."""
        if not isinstance(source, str | Path):
            raise ValueError(f"{where}: {source!r} is not allowed; give the path of a .npy, .npz or .csv file")
        name, _, member = str(source).partition(".npz:")
        path = self.base / os.path.expanduser(f"{name}.npz" if member else name)
        if path.suffix not in (".npy", ".npz", ".csv"):
            raise ValueError(f"{where}: {path.name} is not allowed; give a .npy, .npz or .csv file")
        if not path.is_file():
            raise ValueError(f"{where}: {path} does not exist")
        return path, member


class _named:
    """Puts the key and the file before what is wrong with it."""

    def __init__(self, where: str, path: Path):
        self.prefix = f"{where}: {path}: "

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | OSError):
            lines = str(error).splitlines()
            raise ValueError(f"{self.prefix}{lines[0] if lines else type(error).__name__}") from None


def _array(path: Path, member: str, where: str) -> np.ndarray:
    """Returns the array in a `.npy` file or in an `.npz`."""
    with _named(where, path):
        try:
            loaded = np.load(path, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            with loaded as archive:
                names = archive.files
                if not member and len(names) != 1:
                    raise ValueError(
                        f"holds {', '.join(names) or 'nothing'}; name one, as {path.name}:{names[0] if names else 'NAME'}"
                    )
                if member and member not in names:
                    raise ValueError(f"holds {', '.join(names)}, not {member!r}")
                return np.asarray(archive[member or names[0]])
        except (EOFError, KeyError, zipfile.BadZipFile, SyntaxError) as error:
            raise ValueError(f"cannot be read ({type(error).__name__}); it may be cut short") from None


def _whole(values: np.ndarray, where: str) -> np.ndarray:
    """Returns integers `(n,)` as int64; raises `ValueError` where they are not whole, or a float no
    longer tells them apart."""
    if values.ndim > 2 or (values.ndim == 2 and 1 not in values.shape):
        raise ValueError(f"{where}: shape {values.shape} is not allowed; give (samples,) whole numbers")
    values = values.reshape(-1)
    if values.dtype.kind == "u" and len(values) and int(values.max()) >= 2**63:
        raise ValueError(f"{where}: {int(values.max())} is not allowed; give whole numbers below 2^63")
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    if values.dtype.kind != "f" or not np.array_equal(values, np.trunc(values)) or not np.isfinite(values).all():
        raise ValueError(f"{where}: whole numbers are needed")
    if len(values) and float(np.abs(values).max()) >= EXACT:
        raise ValueError(f"{where}: {values.dtype} does not hold numbers from 2^53 on exactly; save them as int64")
    return values.astype(np.int64)


def _classes(given: Any) -> list[int] | None:
    """Returns the classes of the columns; raises `ValueError` where they are not distinct whole
    numbers."""
    if given is None:
        return None
    whole = isinstance(given, Sequence) and not isinstance(given, str)
    if not whole or not all(isinstance(c, int) and not isinstance(c, bool) and c >= 0 for c in given):
        raise ValueError(f"classes: {given!r} is not allowed; give a list of whole numbers, one for each column")
    if len(set(given)) < len(given):
        raise ValueError(f"classes: {given!r} names a class twice")
    return list(given)


def _known(given: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    for key in given:
        if key not in allowed:
            raise ValueError(f"{where}.{key}: unknown key; allowed are {', '.join(allowed)}")
