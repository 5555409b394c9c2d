"""Labelled images in memory: what every source yields and everything else reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor


class _Writeable:
    """Stands for the memory of an array that is marked read-only, and keeps that memory alive."""

    def __init__(self, array: np.ndarray) -> None:
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
        self.owner = array


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor over the memory of `array`, nothing copied, for reading only.

    Arrays read back from an object store are read-only. PyTorch has no such notion and warns about
    each of them. So the array is wrapped as if it could be written. Nothing here ever writes to
    image data.
    """
    if array.flags.writeable:
        return torch.from_numpy(array)

    return torch.from_numpy(np.asarray(_Writeable(array)))


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their labels.

    **Arguments:**

    - `images`: uint8, `(n, height, width, channels)`.
    - `labels`: int64, `(n,)`.

    Raises `ValueError` where shapes or types are others.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"images: {self.images.dtype} of shape {self.images.shape} is not allowed; "
                "give uint8 of shape (n, height, width, channels)"
            )
        if self.labels.dtype != np.int64 or self.labels.shape != (len(self.images),):
            raise ValueError(
                f"labels: {self.labels.dtype} of shape {self.labels.shape} is not allowed; "
                f"give int64 of shape ({len(self.images)},)"
            )

    def __len__(self) -> int:
        return len(self.images)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images `(n, h, w, c)`, scaled to [0, 1].

    Counted from histograms in integers, so the result does not depend on the order of summation. A
    constant channel has deviation 1, so that normalising it is harmless.
    """
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(images), 1024):
        block = images[start : start + 1024]
        for channel in range(channels):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    values = np.arange(256, dtype=np.float64) / 255
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    deviation = np.sqrt((weights * (values[None] - mean[:, None]) ** 2).sum(axis=1))
    deviation[deviation == 0] = 1.0
    return tuple(map(float, mean)), tuple(map(float, deviation))


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A training and a test set of images of one size.

    **Arguments:**

    - `name`: what reports call it.
    - `train`, `test`: the two `ImageSet`s. A *sample id* is the row number in `train`.
    - `num_classes`: labels are below this.
    - `class_names`: one for each class.
    - `mean`, `std`: per channel of `train`, in [0, 1]; what loaders normalise by.
    - `given_statistics`: whether those two were given instead of computed.

    Raises `ValueError` where the parts do not fit each other.
    """

    name: str
    train: ImageSet
    test: ImageSet
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    given_statistics: bool = False

    def __post_init__(self) -> None:
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise ValueError(
                f"dataset {self.name}: training images are {self.train.images.shape[1:]} and test images "
                f"{self.test.images.shape[1:]} (height, width, channels); they must be alike"
            )
        height, width = self.train.images.shape[1:3]
        if height != width:
            raise ValueError(
                f"dataset {self.name}: images are {width}x{height} pixels; they must be square: set dataset.image_size"
            )
        for part, images in (("train", self.train), ("test", self.test)):
            if len(images) == 0:
                raise ValueError(f"dataset {self.name}: {part} holds no images")
            if images.labels.min() < 0 or images.labels.max() >= self.num_classes:
                raise ValueError(
                    f"dataset {self.name}: {part} labels run from {images.labels.min()} to {images.labels.max()}; "
                    f"allowed are 0 to {self.num_classes - 1}"
                )
        if len(self.class_names) != self.num_classes:
            raise ValueError(
                f"dataset {self.name}: {len(self.class_names)} class names for {self.num_classes} classes; one each"
            )

    @property
    def image_size(self) -> int:
        """Height and width of the images in pixels."""
        return int(self.train.images.shape[1])

    @property
    def channels(self) -> int:
        """1 for greyscale, 3 for colour."""
        return int(self.train.images.shape[3])

    def normalised(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> ImageDataset:
        """Returns the same images, to be normalised by the `mean` and `std` that are given, in [0,
        1] per channel.

        None keeps what was computed. Raises `ValueError` where one is not a number for each
        channel, or `std` is not above 0.
        """
        if mean is None and std is None:
            return self
        given = {"mean": mean, "std": std}
        found: dict[str, tuple[float, ...]] = {}
        for name, values in given.items():
            if values is None:
                found[name] = getattr(self, name)
                continue
            plain = not isinstance(values, str) and all(
                isinstance(v, int | float) and not isinstance(v, bool) and np.isfinite(v) for v in values
            )
            if not plain or len(values) != self.channels or (name == "std" and min(values) <= 0):
                above = " above 0" if name == "std" else ""
                raise ValueError(
                    f"dataset.{name}: {values!r} is not allowed; give {self.channels} numbers{above}, one a channel"
                )
            found[name] = tuple(float(v) for v in values)
        if (found["mean"], found["std"]) == (self.mean, self.std):
            return self
        return replace(self, **found, given_statistics=True)  # type: ignore[arg-type]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over shapes, pixels and labels of both parts, in hexadecimal.

        Names do not enter.
        """
        sha = hashlib.sha256()
        for images in (self.train, self.test):
            sha.update(repr(images.images.shape).encode())
            sha.update(np.ascontiguousarray(images.images).data)
            sha.update(np.ascontiguousarray(images.labels).data)
        if self.given_statistics:
            sha.update(repr((self.mean, self.std)).encode())
        return sha.hexdigest()

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything as NumPy arrays, for an array file or an object store; `from_arrays` reads
        them back.
        """
        about = {
            "name": self.name,
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "mean": self.mean,
            "std": self.std,
            "digest": self.digest,
            **({"given_statistics": True} if self.given_statistics else {}),
        }
        return {
            "train_images": self.train.images,
            "train_labels": self.train.labels,
            "test_images": self.test.images,
            "test_labels": self.test.labels,
            "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ImageDataset:
        """The dataset that `to_arrays` gave, over the same memory.

        The digest is taken as stored.
        """
        about: dict[str, Any] = json.loads(np.asarray(arrays["about"]).tobytes())
        digest = about.pop("digest")
        for field in ("class_names", "mean", "std"):
            about[field] = tuple(about[field])
        dataset = cls(
            train=ImageSet(arrays["train_images"], arrays["train_labels"]),
            test=ImageSet(arrays["test_images"], arrays["test_labels"]),
            **about,
        )
        dataset.__dict__["digest"] = digest
        return dataset


def make_dataset(
    name: str,
    train: ImageSet,
    test: ImageSet,
    class_names: tuple[str, ...] | None = None,
    num_classes: int | None = None,
) -> ImageDataset:
    """An `ImageDataset` with its statistics computed, and classes counted from the labels where
    none are given.
    """
    if len(train) == 0 or len(test) == 0:
        raise ValueError(
            f"dataset {name}: {len(train)} training and {len(test)} test images; give at least one of each"
        )
    if num_classes is None:
        num_classes = len(class_names) if class_names else int(max(train.labels.max(), test.labels.max())) + 1
    names = class_names or tuple(str(label) for label in range(num_classes))
    mean, std = channel_statistics(train.images)
    return ImageDataset(name, train, test, num_classes, names, mean, std)
