"""What a model's forward gives back, as logits: the one adapter for all methods, moments and
predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UnlearnError

HALVES = (torch.bfloat16, torch.float16)


def logits_of(found: Any, classes: str = "classes") -> Tensor:
    """Takes the logits out of what a model's forward returned.

    A tensor is them. A mapping holds them under `logits`, an object as `.logits`, and a tuple or a
    list of one is taken apart. `classes`: how many logits an error asks for.

    Raises `UnlearnError` for anything else. Of several tensors none is chosen: the first one may
    well be features.
    """
    if isinstance(found, Tensor):
        return found
    value = found.get("logits") if isinstance(found, Mapping) else getattr(found, "logits", None)
    if value is None and isinstance(found, tuple | list) and len(found) == 1:
        value = found[0]
    if isinstance(value, Tensor):
        return value
    kind = type(found).__name__
    part = "the part that holds them" if isinstance(found, tuple | list) else "them"
    raise UnlearnError(
        f"model: forward returns a {kind}; logits (n, {classes}) are needed: give a wrapper that returns {part}, "
        "alone or as 'logits'"
    )


def forward(model: nn.Module, images: Tensor) -> Any:
    """Runs a model on float32 images; where its first weights have 16 bits, on images of that
    type."""
    if images.dtype == torch.float32 and not torch.is_autocast_enabled(images.device.type):
        images = fitting(images, next(model.parameters(), None))
    return model(images)


def fitting(images: Tensor, weight: Tensor | None) -> Tensor:
    """Returns images in the type of a weight where that has 16 bits, else as they are."""
    return images if weight is None or weight.dtype not in HALVES else images.to(weight.dtype)


def classify(model: nn.Module, images: Tensor) -> Tensor:
    """Returns a model's logits of images, `(n, classes)`, whatever its forward wraps them in."""
    return logits_of(forward(model, images))
