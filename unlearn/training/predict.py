"""Predictions and accuracy in inference mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..core.batches import Loader, device_of, to_device
from ..core.memory import keep_freed_memory
from ..core.modes import modes_kept
from ..core.numerics import arithmetic
from ..models.logits import classify
from .loop import autocast
from .whole_image import whole_image_products


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, every module is in evaluation mode; afterwards each is in the mode that it was in."""
    with modes_kept(model):
        model.eval()
        yield


@contextlib.contextmanager
def _inference(model: nn.Module, precision: str) -> Iterator[None]:
    """What `predict` and `accuracy` need of the model and the process."""
    with (
        evaluating(model),
        arithmetic(precision),
        keep_freed_memory(),
        whole_image_products(model),
        torch.inference_mode(),
    ):
        yield


def predict(
    model: nn.Module, loader: Loader, *, device: str | torch.device | None = None, precision: str = "float32"
) -> tuple[Tensor, Tensor]:
    """Logits of every image, in loader order, the model in evaluation mode and left as it was.

    **Arguments:** `device` is where batches are moved, None for where the model is; `precision` as
    in `Training`.

    **Returns:** float32 logits `(n, classes)` and int64 labels `(n,)`, both on the CPU.

    Raises `ValueError` where the loader holds nothing.
    """
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    target = device_of(model) if device is None else torch.device(device)
    with _inference(model, precision):
        for batch in loader:
            images, classes = to_device(batch, target)
            with autocast(target, precision):
                logits.append(classify(model, images).float())
            labels.append(classes)
    if not logits:
        raise ValueError("loader: holds no images to predict")
    # Joined outside inference mode, so that what is returned are ordinary tensors.
    return torch.cat(logits).cpu(), torch.cat(labels).cpu()


def accuracy(
    model: nn.Module, loader: Loader, *, device: str | torch.device | None = None, precision: str = "float32"
) -> float:
    """Share of the loader's images, in [0, 1], whose largest logit is their label's; arguments as
    for `predict`.
    """
    target = device_of(model) if device is None else torch.device(device)
    correct = torch.zeros((), dtype=torch.int64, device=target)
    count = 0
    with _inference(model, precision):
        for batch in loader:
            images, labels = to_device(batch, target)
            with autocast(target, precision):
                correct += (classify(model, images).argmax(dim=1) == labels).sum()
            count += len(labels)
    if count == 0:
        raise ValueError("loader: holds no images to predict")
    return correct.item() / count
