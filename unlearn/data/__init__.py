"""Image data: sources, images in memory, and the loader of the fast path."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core import _torchvision  # noqa: F401  (declares torchvision's operators before anything imports it)
from ..core.errors import did_you_mean
from ..core.registry import Registry
from .images import ImageDataset, ImageSet, as_tensor, make_dataset
from .loader import ArrayLoader
from .preprocess import preprocessing
from .sources import Limit, Progress, Source

_BUILT_IN = {
    "digits": "unlearn.data.digits:Digits",
    "torchvision": "unlearn.data.torchvision_sets:TorchvisionSet",
    "parquet": "unlearn.data.parquet:Parquet",
    "image_folder": "unlearn.data.image_folder:ImageFolder",
    "tiny_imagenet": "unlearn.data.tiny_imagenet:TinyImageNet",
}


SOURCES: Registry[type[Source]] = Registry("unlearn.sources", _BUILT_IN, "unlearn.data.sources:Source")

__all__ = [
    "SOURCES",
    "ArrayLoader",
    "ImageDataset",
    "ImageSet",
    "Source",
    "as_tensor",
    "fingerprint",
    "load_dataset",
    "make_dataset",
    "read_column",
]


def _source(source: str, options: Mapping[str, Any]) -> Source:
    if source not in SOURCES:
        names = sorted(SOURCES)
        raise ValueError(
            f"dataset.source: {source!r} is not allowed; allowed are {', '.join(names)}{did_you_mean(source, names)}"
        )
    kind = SOURCES[source]
    fields = [field.name for field in dataclasses.fields(kind)]
    for option in options:
        if option not in fields:
            raise ValueError(
                f"dataset.{option}: unknown option of source {source!r}; allowed are {', '.join(fields)}"
                f"{did_you_mean(option, fields)}"
            )
    for field in dataclasses.fields(kind):
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and field.name not in options:
            raise ValueError(f"dataset.{field.name}: missing; source {source!r} needs it")
    made: Source = kind(**options)
    return made


def load_dataset(
    source: str,
    *,
    limit: Limit | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    preprocess: Any = None,
    on_progress: Progress | None = None,
    **options: Any,
) -> ImageDataset:
    """Reads a dataset into memory, decoded, as uint8.

    **Arguments:**

    - `source`: a name in `SOURCES`; `options` are that source's fields.
    - `limit`: `{"train": n, "test": n}`, each optional: the first n rows; a bare number limits
        `train`.
    - `mean`, `std`: what a model of yours was trained with, in [0, 1] for each channel; None takes
        those of the training images.
    - `preprocess`: stands for the `mean`, `std` and, where the source resizes, `image_size` of a
        published model, see `unlearn.data.preprocess`; what is given beside it wins.
    - `on_progress`: called with (images done, images in all) while decoding.

    Raises `ValueError` with one line for a source, option, path, column or image that is wrong.
    """
    if preprocess is not None:
        wanted = preprocessing(preprocess)
        mean, std = mean or wanted.mean, std or wanted.std
        resizes = source in SOURCES and "image_size" in {field.name for field in dataclasses.fields(SOURCES[source])}
        if resizes and wanted.image_size is not None:
            options.setdefault("image_size", wanted.image_size)
    return _source(source, options).load(limit=limit, on_progress=on_progress).normalised(mean, std)


def read_column(source: str, name: str | None, *, limit: Limit | None = None, **options: Any) -> np.ndarray | None:
    """A column of the training data, `(n,)`, in the order of `load_dataset`'s rows.

    `name` None gives the sample ids, or None where the source has no `id_column`. Raises
    `ValueError` where there is no such column.
    """
    reader = _source(source, options)
    wanted = reader.ids() if name is None else name
    return None if wanted is None else reader.column(wanted, limit=limit)


def fingerprint(source: str, **options: Any) -> str:
    """A SHA-256 that identifies the input of `load_dataset(source, **options)` without decoding
    it."""
    return _source(source, options).fingerprint()
