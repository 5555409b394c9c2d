"""What a loader is, and how its batches reach a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UnlearnError

# A batch is (images, labels), also with more behind them, or a mapping: see `images_and_labels`.
Loader = Iterable[Any]
EpochCallback = Callable[[dict[str, Any]], None]


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU where it has neither."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


# What data sets call their images and labels in batches that are mappings.
IMAGES = ("images", "image", "pixel_values", "inputs", "img", "x")
LABELS = ("labels", "label", "targets", "target", "y")


def images_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    """Takes images and labels out of a batch.

    A tuple or a list starts with them; what follows, such as sample ids, is not looked at. A
    mapping holds them under one name of `IMAGES` and one of `LABELS`.

    Raises `ValueError` where it is neither, a mapping leaves a choice, or one of them is no tensor.
    """
    if isinstance(batch, Mapping):
        found = [_one_of(batch, names) for names in (IMAGES, LABELS)]
    elif isinstance(batch, tuple | list) and len(batch) >= 2:
        found = list(batch[:2])
    else:
        raise ValueError(
            f"loader: a batch is a {type(batch).__name__}; give (images, labels) or a mapping with images and labels"
        )
    for what, value in zip(("images", "labels"), found, strict=True):
        if not isinstance(value, Tensor):
            raise ValueError(f"loader: the {what} of a batch are a {type(value).__name__}; give a tensor")
    return found[0], found[1]


def _one_of(batch: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    there = [name for name in names if name in batch]
    if len(there) != 1:
        raise ValueError(
            f"loader: a batch with {', '.join(map(str, batch)) or 'nothing'} holds {len(there)} of {', '.join(names)}; "
            "one is needed"
        )
    return batch[there[0]]


def _flat(labels: Tensor) -> Tensor:
    """Labels `(n, 1)` as `(n,)`. Raises `ValueError` for other shapes, which would broadcast to a
    wrong accuracy."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        return labels[:, 0]
    raise ValueError(f"labels: shape {tuple(labels.shape)} is not allowed; give one class for each image, (n,)")


def kept(loader: Loader) -> Loader:
    """Returns a loader that can be read again: a list of what can be read only once."""
    return list(loader) if isinstance(loader, Iterator) else loader


def read_again(loader: Loader, name: str, why: str) -> None:
    """Raises `UnlearnError` for a loader that can be read only once where several passes are
    made."""
    if isinstance(loader, Iterator):
        raise UnlearnError(f"{name}: it can be read only once, and {why}; give a list of batches or a DataLoader")


def to_device(batch: Any, device: torch.device, channels_last: bool = True) -> tuple[Tensor, Tensor]:
    """The images and labels of a batch on `device`, images in the memory layout asked for; nothing
    is copied that is already so.

    Images of 16 bits become float32, labels int64.

    Raises `ValueError` as `images_and_labels`, for labels of another shape than `(n,)` and for
    fractions.
    """
    images, labels = images_and_labels(batch)
    if labels.ndim != 1:
        labels = _flat(labels)
    numbers, labels = labels, labels.long()
    if numbers.is_floating_point() and not torch.equal(numbers, labels.to(numbers.dtype)):
        raise ValueError("labels: they are fractions; give the number of a class for each image")
    if images.dtype in (torch.bfloat16, torch.float16):
        images = images.float()
    layout = torch.channels_last if channels_last and images.ndim == 4 else torch.contiguous_format
    return images.to(device, non_blocking=True, memory_format=layout), labels.to(device, non_blocking=True)
