"""Images in Parquet files: encoded bytes as commonly published, or tensors; local or on S3."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ..core.checked import check_integer
from ..core.errors import did_you_mean
from ..core.paths import matches
from .images import ImageDataset, ImageSet, make_dataset
from .sources import (
    Decoder,
    Limit,
    Progress,
    Source,
    check_image_size,
    check_limit,
    hash_files,
    limit_of,
)

Paths = str | list[str] | tuple[str, ...]


@dataclass(frozen=True)
class _File:
    """One Parquet file: its path as shown, and where Arrow opens it."""

    shown: str
    filesystem: Any
    path: str

    def open(self) -> Any:
        try:
            return pq.ParquetFile(self.filesystem.open_input_file(self.path))
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"{self.shown}: cannot be read as Parquet ({str(error).splitlines()[0]})") from None


def _remote(path: str, field: str) -> list[_File]:
    # options such as endpoint_override follow the question mark
    base, _, query = path.partition("?")
    suffix = f"?{query}" if query else ""
    head, _, tail = base.rpartition("/")
    has_pattern = any(character in tail for character in "*[")
    try:
        filesystem, key = fs.FileSystem.from_uri((head if has_pattern else base) + suffix)
        if not has_pattern:
            return [_File(path, filesystem, key)]
        entries = filesystem.get_file_info(fs.FileSelector(key))
    except (OSError, ValueError) as error:
        raise ValueError(f"{field}: {path!r} cannot be listed ({str(error).splitlines()[0]})") from None
    names = sorted(entry.path for entry in entries if entry.is_file and fnmatch.fnmatch(entry.base_name, tail))
    return [_File(f"{head}/{name.rpartition('/')[2]}", filesystem, name) for name in names]


def expand(paths: Paths, field: str) -> list[_File]:
    """The files that a path, glob or list of them names, in order.

    Raises `ValueError` where one names none.
    """
    files: list[_File] = []
    for path in [paths] if isinstance(paths, str) else list(paths):
        if not isinstance(path, str) or not path:
            raise ValueError(
                f"{field}: {path!r} is not allowed; give a path, a glob, an s3:// address or a list of them"
            )
        if "://" in path:
            found = _remote(path, field)
        else:
            path = os.path.expanduser(path)
            names = matches(path)
            found = [_File(name, fs.LocalFileSystem(), name) for name in names if os.path.isfile(name)]
        if not found:
            advice = "check the path (relative paths start at the working folder)"
            if os.path.isdir(path):
                advice = f"it is a folder; give its files, as {os.path.join(path, '*.parquet')!r}"
            raise ValueError(f"{field}: {path!r} names no file; {advice}")
        files += found
    if not files:
        raise ValueError(f"{field}: no files given; give a path, a glob, an s3:// address or a list of them")
    return files


@dataclass(frozen=True)
class Parquet(Source):
    """Parquet files of images and labels.

    **Arguments:**

    - `train`, `test`: a path, a glob or a list of them, local or `s3://`.
    - `image_column`: struct of `bytes` (and `path`), plain binary, or a fixed-shape uint8 tensor
        `(h, w)`, `(h, w, c)` or `(c, h, w)`.
    - `label_column`: integers from 0, or names, numbered in sorted order.
    - `image_size`: resize to this many pixels; None requires images of one size.
    - `id_column`: sample ids, each once: what deletion requests name and reports show.
    - `classes`: keep the first so many classes and none of the other rows; a `limit` counts the
        rows that are kept.

    A set in which every image is greyscale has one channel; greyscale images among colour ones
    become RGB.
    """

    train: Paths
    test: Paths
    image_column: str = "image"
    label_column: str = "label"
    image_size: int | None = None
    classes: int | None = None
    id_column: str | None = None

    def __post_init__(self) -> None:
        check_image_size(self.image_size)
        check_integer("dataset.classes", self.classes, 2, optional=True)

    def load(self, *, limit: Limit | None = None, on_progress: Progress | None = None) -> ImageDataset:
        """Reads and decodes.

        Raises `ValueError` with one line naming the file, column or row that is wrong.
        """
        files = {part: expand(getattr(self, part), f"dataset.{part}") for part in ("train", "test")}
        labels = {part: self._labels(files[part]) for part in files}
        names = _class_names(files["train"][0], self.label_column)
        if labels["train"].dtype.kind == "U":
            names = tuple(str(name) for name in np.unique(labels["train"]))
            known = {name: number for number, name in enumerate(names)}
            for part in labels:
                unknown = set(labels[part]) - set(known)
                if unknown:
                    raise ValueError(f"dataset.{part}: label {min(unknown)!r} does not occur in the training files")
                labels[part] = np.array([known[name] for name in labels[part]], dtype=np.int64)
        for part, values in labels.items():
            if len(values) and values.min() < 0:
                raise ValueError(f"dataset.{part}: label {values.min()} is not allowed; labels start at 0")
        highest = int(max(values.max(initial=0) for values in labels.values()))
        if min(int(values.min(initial=highest)) for values in labels.values()) > 0:
            raise ValueError(
                f"dataset.label_column: labels in {self.label_column!r} start at "
                f"{min(int(values.min(initial=highest)) for values in labels.values())}: class 0 has no image; count from 0"
            )
        if names is not None and highest >= len(names):
            names = None  # the file's own list of names does not cover its labels
        kept: dict[str, np.ndarray] = {}
        if self.classes is not None:
            if self.classes > highest + 1:
                raise ValueError(f"dataset.classes: {self.classes} is not allowed; give 2 to {highest + 1}")
            kept = {part: np.flatnonzero(values < self.classes) for part, values in labels.items()}
            labels = {part: values[kept[part]] for part, values in labels.items()}
            names, highest = names[: self.classes] if names else None, self.classes - 1
        counts = {part: check_limit(limit_of(limit, part), len(labels[part]), part) for part in files}
        for part, values in labels.items():
            _refuse_sorted(values, counts[part], part)
        decoder = Decoder(self.image_size, on_progress, sum(counts.values()))
        images = {part: self._images(files[part], counts[part], decoder, kept.get(part)) for part in files}
        if decoder.grey:
            images = {part: np.ascontiguousarray(array[..., :1]) for part, array in images.items()}
        sets = {part: ImageSet(images[part], labels[part][: counts[part]]) for part in files}
        # The classes are those of the whole files, also under a limit that leaves some without
        # images.
        num_classes = len(names) if names else highest + 1
        name = Path(files["train"][0].path).stem
        return make_dataset(name, sets["train"], sets["test"], names, num_classes)

    def fingerprint(self) -> str:
        """SHA-256 of the contents of local files, or of path, size and modification time on S3, and
        of the options.
        """
        sha = hashlib.sha256(repr((self.image_column, self.label_column, self.image_size, self.classes)).encode())
        for part in ("train", "test"):
            for file in expand(getattr(self, part), f"dataset.{part}"):
                if "://" in file.shown:
                    info = file.filesystem.get_file_info(file.path)
                    sha.update(repr((part, file.shown, info.size, info.mtime_ns)).encode())
                else:
                    sha.update(hash_files([file.path], part).encode())
        return sha.hexdigest()

    def ids(self) -> str | None:
        """Returns `id_column`."""
        return self.id_column

    def column(self, name: str, *, limit: Limit | None = None) -> np.ndarray:
        """Returns a column of the training rows that `load` keeps, texts or numbers.

        Raises `ValueError` where it is missing, has empty values, or holds anything else.
        """
        files = expand(self.train, "dataset.train")
        field = "dataset.id_column" if name == self.id_column else "scenario.where"
        parts = []
        for file in files:
            with file.open() as parquet:
                _check_name(parquet.schema_arrow, name, field, file)
                values = parquet.read(columns=[name]).column(name)
            if not len(values):
                continue
            if pa.types.is_dictionary(values.type):
                values = values.cast(values.type.value_type)
            kind = values.type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_primitive(kind)):
                raise ValueError(f"{field}: column {name!r} of {file.shown} is {kind}; allowed are numbers and texts")
            if values.null_count:
                raise ValueError(f"{field}: column {name!r} of {file.shown} has {values.null_count} empty values")
            parts.append(values)
        if len({pa.types.is_primitive(part.type) for part in parts}) > 1:
            raise ValueError(f"{field}: column {name!r} holds numbers in one file and texts in another")
        # One list for all files: they may differ in how wide their integers are.
        found = np.array([value for part in parts for value in part.to_pylist()])
        if self.classes is not None:
            # Names are numbered over all files, so `classes` counts numbers as `load` does.
            labels = self._labels(files)
            numbers = np.unique(labels, return_inverse=True)[1] if labels.dtype.kind == "U" else labels
            found = found[numbers < self.classes]
        return found[: limit_of(limit, "train")]

    def _check_column(self, schema: Any, field: str, file: _File) -> None:
        _check_name(schema, getattr(self, field), f"dataset.{field}", file)

    def _labels(self, files: list[_File]) -> np.ndarray:
        parts = []
        for file in files:
            with file.open() as parquet:
                self._check_column(parquet.schema_arrow, "image_column", file)
                self._check_column(parquet.schema_arrow, "label_column", file)
                column = parquet.read(columns=[self.label_column]).column(self.label_column)
            if not len(column):
                continue  # pandas writes columns of no type where there are no rows
            if column.null_count:
                raise ValueError(
                    f"{file.shown}: column {self.label_column!r} has {column.null_count} rows without a label"
                )
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                parts.append(np.array(column.to_pylist(), dtype=np.str_))
            elif pa.types.is_integer(column.type):
                parts.append(column.to_numpy().astype(np.int64))
            else:
                raise ValueError(
                    f"dataset.label_column: column {self.label_column!r} of {file.shown} is {column.type}; "
                    "allowed are integers and strings"
                )
        if not parts:
            raise ValueError(f"{files[0].shown}: holds no rows")
        if len({part.dtype.kind for part in parts}) > 1:
            raise ValueError(
                f"dataset.label_column: {self.label_column!r} holds integers in one file and strings in another"
            )
        return np.concatenate(parts)

    def _images(self, files: list[_File], count: int, decoder: Decoder, kept: np.ndarray | None) -> np.ndarray:
        """Decodes the first `count` rows, or those of them that `kept` names, which are then the
        rows of the dataset.
        """
        parts: list[np.ndarray] = []
        left, passed = count, 0
        for file in files:
            with file.open() as parquet:
                for batch in parquet.iter_batches(batch_size=8192, columns=[self.image_column]):
                    if left == 0:
                        break
                    column = batch.column(0)
                    if kept is not None:
                        low, high = np.searchsorted(kept, (passed, passed + len(column)))
                        column, passed = column.take(pa.array(kept[low:high] - passed)), passed + len(column)
                    column = column[:left]
                    parts.append(self._decode(column, file, sum(map(len, parts)), decoder))
                    left -= len(column)
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def _decode(self, column: Any, file: _File, row: int, decoder: Decoder) -> np.ndarray:
        if column.null_count:
            raise ValueError(f"{file.shown}: column {self.image_column!r} has rows without an image")
        if isinstance(column.type, pa.FixedShapeTensorType):
            return _tensors(column, file, self.image_column, decoder)
        if pa.types.is_struct(column.type) and "bytes" in [field.name for field in column.type]:
            column = column.field("bytes")
        if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            raise ValueError(
                f"dataset.image_column: column {self.image_column!r} of {file.shown} is {column.type}; "
                "allowed are struct<bytes, path>, binary and fixed-shape uint8 tensors"
            )
        if column.null_count:
            raise ValueError(f"{file.shown}: column {self.image_column!r} has rows without image bytes")
        return decoder.decode(column.to_pylist(), lambda i: f"{file.shown}: row {row + i}")


def _check_name(schema: Any, column: str, field: str, file: _File) -> None:
    if column not in schema.names:
        hint = did_you_mean(column, schema.names)
        raise ValueError(f"{field}: {file.shown} has no column {column!r}; it has {', '.join(schema.names)}{hint}")


def _refuse_sorted(labels: np.ndarray, count: int, part: str) -> None:
    """Raises `ValueError` where the first `count` rows lack classes because the file is sorted by
    them."""
    first, every = np.unique(labels[:count]), np.unique(labels)
    if count < len(labels) and len(first) < len(every) and (np.diff(labels) >= 0).all():
        raise ValueError(
            f"dataset.limit.{part}: the first {count} rows hold {len(first)} of {len(every)} classes, as the file is sorted by "
            "class; shuffle it, or leave the limit out"
        )


def _tensors(column: Any, file: _File, name: str, decoder: Decoder) -> np.ndarray:
    if column.type.value_type != pa.uint8():
        raise ValueError(
            f"dataset.image_column: {name!r} of {file.shown} holds {column.type.value_type} tensors; give uint8"
        )
    images = column.to_numpy_ndarray()
    if images.ndim == 3:
        images = images[..., None]
    elif images.ndim == 4 and images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"dataset.image_column: {name!r} of {file.shown} holds tensors of shape {tuple(column.type.shape)}; "
            "allowed are (h, w), (h, w, 1 or 3) and (1 or 3, h, w)"
        )
    if decoder.image_size is not None and images.shape[1:3] != (decoder.image_size, decoder.image_size):
        raise ValueError("dataset.image_size: tensors are not resized; leave it out or store them at that size")
    if decoder.shape is not None and decoder.shape != images.shape[1:3]:
        raise ValueError(f"{file.shown}: tensors of {images.shape[1:3]} pixels, others are {decoder.shape}")
    decoder.shape = images.shape[1:3]
    decoder.grey = decoder.grey and images.shape[-1] == 1
    decoder.done += len(images)
    if decoder.on_progress is not None:
        decoder.on_progress(decoder.done, decoder.total)
    return np.ascontiguousarray(np.broadcast_to(images, (*images.shape[:3], 3)))


def _class_names(file: _File, label_column: str) -> tuple[str, ...] | None:
    """The class names that files in the Hugging Face layout carry in their schema, if any."""
    with file.open() as parquet:
        metadata = parquet.schema_arrow.metadata or {}
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label_column]["names"]
        return tuple(str(name) for name in names) or None
    except (KeyError, TypeError, ValueError):
        return None
