"""What a loader is, and how its batches reach a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Loader = Iterable[tuple[Tensor, Tensor]]
EpochCallback = Callable[[dict[str, Any]], None]


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU where it has neither."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def _flat(labels: Tensor) -> Tensor:
    """Labels `(n, 1)` as `(n,)`. Raises `ValueError` for other shapes, which would broadcast to a
    wrong accuracy."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        return labels[:, 0]
    raise ValueError(f"labels: shape {tuple(labels.shape)} is not allowed; give one class for each image, (n,)")


def to_device(batch: tuple[Tensor, Tensor], device: torch.device, channels_last: bool = True) -> tuple[Tensor, Tensor]:
    """The batch on `device`, images in the memory layout asked for; nothing is copied that is
    already so.
    """
    images, labels = batch
    if labels.ndim != 1:
        labels = _flat(labels)
    layout = torch.channels_last if channels_last and images.ndim == 4 else torch.contiguous_format
    return images.to(device, non_blocking=True, memory_format=layout), labels.to(device, non_blocking=True)
