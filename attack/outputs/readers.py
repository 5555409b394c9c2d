"""Outputs from Parquet files in the outputs schema, on this machine or on S3."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from .table import OUTPUTS_SCHEMA, towards_schema


def read_outputs(paths: str | Path | Sequence[str | Path]) -> list[pa.Table]:
    """Returns the tables in Parquet files, with common spellings of the types brought to the
    schema's.

    A list of numbers of one length becomes the fixed-size list of float32; other integers become
    int64. What cannot be brought there is left as it is, for `check` to name.

    **Arguments:** `paths`: files, folders or globs.

    **Raises:** `ValueError` where nothing is there, or a file is no Parquet.
    """
    found = []
    for path in _files([paths] if isinstance(paths, str | Path) else paths):
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from None
        found.append(towards_schema(table))
    return found


def find_files(given: Sequence[str | Path]) -> tuple[tuple[str, ...], Any]:
    """Returns the files that paths, folders, globs or `s3://…` addresses name, and the `pyarrow.fs`
    file system of the latter.

    S3's credentials and endpoint come from the usual AWS variables (`AWS_ENDPOINT_URL`).

    **Raises:** `ValueError` where one names nothing, or local and remote ones are mixed.
    """
    remote = [str(path) for path in given if str(path).startswith("s3://")]
    if not remote:
        return tuple(str(path) for path in _files(given)), None
    if len(remote) < len(given):
        raise ValueError("outputs: files on S3 and local files are mixed; give one kind")
    filesystem = s3_filesystem()
    found: list[str] = []
    for address in remote:
        try:
            matches = _remote(filesystem, address.removeprefix("s3://").rstrip("/"))
        except OSError as error:
            raise ValueError(f"outputs: {address}: {str(error).splitlines()[0]}") from None
        if not matches:
            raise ValueError(f"outputs: {address}: no such file; give .parquet objects, a prefix of them, or a glob")
        found += matches
    return tuple(found), filesystem


def s3_filesystem() -> Any:
    """Returns S3 as `pyarrow.fs` sees it, at `AWS_ENDPOINT_URL` where that is set."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    scheme, _, host = (endpoint or "").partition("://")
    # A region that is not given would be looked up on the network.
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    options = {"scheme": scheme, "endpoint_override": host.rstrip("/")} if endpoint else {}
    return fs.S3FileSystem(region=region, **options)


def _remote(filesystem: Any, path: str) -> list[str]:
    stem = path.partition("*")[0].rpartition("/")[0] if "*" in path else path
    if "*" not in path and filesystem.get_file_info(path).type == fs.FileType.File:
        return [path]
    inside = filesystem.get_file_info(fs.FileSelector(stem, recursive="*" in path, allow_not_found=True))
    names = sorted(entry.path for entry in inside if entry.type == fs.FileType.File)
    pattern = path if "*" in path else f"{path}/*.parquet"
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def _files(paths: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            matches = sorted(path.glob("*.parquet"))
        else:
            matches = [path] if path.is_file() else [Path(name) for name in _glob(str(given))]
        if not matches:
            _refuse_nested(path)
            problem = "the folder holds no .parquet files" if path.is_dir() else "no such file"
            raise ValueError(f"outputs: {given}: {problem}; give .parquet files, a folder of them, or a glob")
        found += matches
    for file in found:
        _refuse_partition(file)
    return found


def _glob(pattern: str) -> list[str]:
    """Returns what a glob names, sorted; brackets in the name of a folder that is there are no
    pattern."""
    folder = next((parent for parent in Path(pattern).parents if parent.name and parent.is_dir()), None)
    if folder is not None:
        pattern = os.path.join(glob.escape(str(folder)), Path(pattern).relative_to(folder))
    return sorted(glob.glob(pattern))


def _refuse_nested(folder: Path) -> None:
    """Raises `ValueError` where the files lie in folders inside `folder`, saying how to name
    them."""
    inside = next(iter(sorted(folder.rglob("*.parquet"))), None) if folder.is_dir() else None
    if inside is None:
        return
    _refuse_partition(inside)
    depth = len(inside.relative_to(folder).parts) - 1
    pattern = "/".join([str(folder), *["*"] * depth, "*.parquet"])
    raise ValueError(f"outputs: {folder}: its files lie in folders inside, such as {inside}; give {pattern!r}")


def _refuse_partition(path: Path) -> None:
    """Raises `ValueError` for a file in a folder such as `role=original`, where a column is the
    folder's name."""
    for part in path.parts[:-1]:
        name, equals, _ = part.partition("=")
        if equals and name in OUTPUTS_SCHEMA(1).names and path.is_file() and name not in pq.read_schema(path).names:
            raise ValueError(
                f"outputs: {path}: the column {name!r} is the name of a folder (a Hive partition), not in the file; "
                "write the table without partition columns"
            )
