"""Outputs from files: Parquet in the outputs schema, or NumPy and CSV logits with a small mapping."""

from __future__ import annotations

import fnmatch
import glob
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .table import outputs_table, towards_schema

MODEL_KEYS = ("model_id", "role", "fold", "method", "params", "logits", "labels", "sample_ids")
MAPPING_KEYS = ("models", "labels", "sample_ids", "classes")


def read_outputs(paths: str | Path | Sequence[str | Path]) -> list[pa.Table]:
    """Returns the tables in Parquet files, with common spellings of the types brought to the schema's.

    A list of numbers of one length becomes the fixed-size list of float32; other integers become int64. What cannot be
    brought there is left as it is, for `check` to name.

    **Arguments:** `paths`: files, folders or globs.

    **Raises:** `ValueError` where nothing is there, or a file is no Parquet.
    """
    found = []
    for path in _files([paths] if isinstance(paths, str | Path) else paths, "parquet"):
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from None
        found.append(towards_schema(table))
    return found


def read_logits(mapping: Mapping[str, Any], folder: str | Path = ".") -> pa.Table:
    """Returns the outputs table of logits kept in NumPy or CSV files.

    **Arguments:**

    - `mapping`: `models`: a list with, for each model, `model_id`, `role`, `fold`, `logits` (a `.npy`, `.npz:name` or `.csv` file
        of `(n, C)` numbers) and, where they apply, `method`, `params`, and its own `labels` and `sample_ids`; `labels` and
        `sample_ids`: files of `(n,)` integers for all models (without sample ids, rows are numbered); `classes`: the class of each
        column, where forgotten classes were dropped. A CSV with a header may hold `label` and `sample_id` columns itself.
    - `folder`: that relative paths start from.

    **Raises:** `ValueError` naming the model, the key and what is allowed.
    """
    _known(mapping, MAPPING_KEYS, "mapping")
    models = mapping.get("models")
    if not isinstance(models, Sequence) or isinstance(models, str) or not models:
        raise ValueError("models: a list of models is needed, each with model_id, role, fold and logits")
    base = Path(folder)
    return pa.concat_tables([_model(entry, mapping, base, number) for number, entry in enumerate(models)])


def _model(entry: Mapping[str, Any], mapping: Mapping[str, Any], base: Path, number: int) -> pa.Table:
    where = f"models.{number}"
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: {entry!r} is not allowed; give a mapping with {', '.join(MODEL_KEYS)}")
    _known(entry, MODEL_KEYS, where)
    for key in ("model_id", "role", "fold", "logits"):
        if key not in entry:
            raise ValueError(f"{where}.{key}: missing; each model needs model_id, role, fold and logits")
    columns = _numbers(base, entry["logits"], f"{where}.logits")
    logits = columns["values"]
    if logits.ndim != 2:
        raise ValueError(f"{where}.logits: shape {logits.shape} is not allowed; give (samples, classes)")
    integers = {}
    for key, own in (("labels", "label"), ("sample_ids", "sample_id")):
        source = entry.get(key, mapping.get(key))
        if own in columns:
            values = columns[own]
        elif source is not None:
            values = _numbers(base, source, f"{where}.{key}")["values"].reshape(-1)
        elif key == "sample_ids":
            values = np.arange(len(logits))
        else:
            raise ValueError(
                f"{where}.labels: missing; give labels for all models, for this one, or as a column of its CSV"
            )
        if not np.array_equal(values, np.asarray(values).astype(np.int64)):
            raise ValueError(f"{where}.{key}: whole numbers are needed")
        integers[key] = np.asarray(values).astype(np.int64)
    params = entry.get("params", {})
    try:
        return outputs_table(
            str(entry["model_id"]),
            entry["role"],
            str(entry.get("method", "")),
            params if isinstance(params, str) else json.dumps(params, sort_keys=True),
            entry["fold"],
            integers["sample_ids"],
            integers["labels"],
            logits,
            classes=mapping.get("classes"),
        )
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None


def _numbers(base: Path, source: Any, where: str) -> dict[str, np.ndarray]:
    """Returns the array in a file as `values`, and the named columns that a CSV has beside it."""
    if not isinstance(source, str | Path):
        raise ValueError(f"{where}: {source!r} is not allowed; give the path of a .npy, .npz or .csv file")
    name, _, member = str(source).partition(".npz:")
    path = base / (f"{name}.npz" if member else name)
    if not path.is_file():
        raise ValueError(f"{where}: {path} does not exist")
    try:
        if path.suffix == ".npy":
            return {"values": np.load(path, allow_pickle=False)}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                names = archive.files
                if not member and len(names) != 1:
                    raise ValueError(f"it holds {', '.join(names)}; name one as {path.name}:{names[0]}")
                return {"values": archive[member or names[0]]}
        if path.suffix == ".csv":
            return _csv(path)
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(f"{where}: {path}: {str(error).splitlines()[0]}") from None
    raise ValueError(f"{where}: {path.name} is not allowed; give a .npy, .npz or .csv file")


def _csv(path: Path) -> dict[str, np.ndarray]:
    with path.open() as file:
        first = file.readline().strip().split(",")
    try:
        [float(value) for value in first]
        header: list[str] = []
    except ValueError:
        header = [name.strip() for name in first]
    numbers = np.loadtxt(path, delimiter=",", skiprows=1 if header else 0, ndmin=2, dtype=np.float64)
    named: dict[str, np.ndarray] = {
        name: numbers[:, header.index(name)] for name in ("label", "sample_id") if name in header
    }
    rest = [i for i in range(numbers.shape[1]) if i >= len(header) or header[i] not in named]
    return {"values": numbers[:, rest], **named}


def find_files(given: Sequence[str | Path], suffix: str = "parquet") -> tuple[tuple[str, ...], Any]:
    """Returns the files that paths, folders, globs or `s3://…` addresses name, and the `pyarrow.fs` file system of the latter.

    S3's credentials and endpoint come from the usual AWS variables (`AWS_ENDPOINT_URL`).

    **Raises:** `ValueError` where one names nothing, or local and remote ones are mixed.
    """
    remote = [str(path) for path in given if str(path).startswith("s3://")]
    if not remote:
        return tuple(str(path) for path in _files(given, suffix)), None
    if len(remote) < len(given):
        raise ValueError("outputs: files on S3 and local files are mixed; give one kind")
    filesystem = s3_filesystem()
    found: list[str] = []
    for address in remote:
        try:
            matches = _remote(filesystem, address.removeprefix("s3://").rstrip("/"), suffix)
        except OSError as error:
            raise ValueError(f"outputs: {address}: {str(error).splitlines()[0]}") from None
        if not matches:
            raise ValueError(f"outputs: {address}: no such file; give .{suffix} objects, a prefix of them, or a glob")
        found += matches
    return tuple(found), filesystem


def s3_filesystem() -> Any:
    """Returns S3 as `pyarrow.fs` sees it, at `AWS_ENDPOINT_URL` where that is set."""
    from pyarrow.fs import S3FileSystem

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    scheme, _, host = (endpoint or "").partition("://")
    # A region that is not given would be looked up on the network.
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    options = {"scheme": scheme, "endpoint_override": host.rstrip("/")} if endpoint else {}
    return S3FileSystem(region=region, **options)


def _remote(filesystem: Any, path: str, suffix: str) -> list[str]:
    from pyarrow.fs import FileSelector, FileType

    stem = path.partition("*")[0].rpartition("/")[0] if "*" in path else path
    if "*" not in path and filesystem.get_file_info(path).type == FileType.File:
        return [path]
    inside = filesystem.get_file_info(FileSelector(stem, recursive="*" in path, allow_not_found=True))
    names = sorted(entry.path for entry in inside if entry.type == FileType.File)
    pattern = path if "*" in path else f"{path}/*.{suffix}"
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def _files(paths: Sequence[str | Path], suffix: str) -> list[Path]:
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            matches = sorted(path.glob(f"*.{suffix}"))
        else:
            matches = [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(str(given)))]
        if not matches:
            raise ValueError(f"outputs: {given}: no such file; give .{suffix} files, a folder of them, or a glob")
        found += matches
    return found


def _known(given: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    for key in given:
        if key not in allowed:
            raise ValueError(f"{where}.{key}: unknown key; allowed are {', '.join(allowed)}")
