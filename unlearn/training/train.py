"""Training, prediction and accuracy of classifiers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..data.augment import check_augment
from ..data.loader import ArrayLoader
from .loop import EpochCallback, Job, Loader, TrainingDiverged, autocast, device_of, fit, fit_together, to_device
from .graphs import Graphs
from ..core.memory import keep_freed_memory
from ..core.numerics import arithmetic
from ..core.seeds import check_seed
from .whole_image import whole_image_products

OPTIMIZERS = ("sgd", "adam")
PATHS = ("fast", "plain")
PRECISIONS = ("float32", "bfloat16")

__all__ = ["Training", "TrainingDiverged", "accuracy", "evaluating", "predict", "train", "train_together"]


@dataclass(frozen=True)
class Training:
    """How a model is trained. The fields are the recipe keys of `training`; the defaults are the paper's for SmallVGG.

    **Arguments:**

    - `optimizer`: `sgd` or `adam`.
    - `lr`, `final_lr`: pass e = 0, 1, … uses lr·(final_lr/lr)^(e/epochs), which is `ExponentialLR` stepped after each
        pass so that the rate arrives at `final_lr` when training ends. `final_lr` None keeps `lr`.
    - `momentum`: of SGD; Adam ignores it.
    - `weight_decay`: coupled (L2), for every parameter.
    - `batch_size`: images a step; the last batch of a pass holds what is left.
    - `epochs`: passes over the data.
    - `augment`: None, `flip` or `crop_flip`.
    - `path`: `fast`, or `plain`: the reference that trains as scripts usually do, from Pillow images through a
        `DataLoader`.
    - `precision`: `float32`, or `bfloat16`: autocast with float32 weights.

    Raises `ValueError` for values that are not allowed.
    """

    section: ClassVar[str] = "training."  # what errors put ahead of a field's name

    optimizer: str = "sgd"
    lr: float = 0.01
    final_lr: float | None = 0.0005
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 256
    epochs: int = 200
    augment: str | None = "crop_flip"
    path: str = "fast"
    precision: str = "float32"

    def __post_init__(self) -> None:
        for field, allowed in (("optimizer", OPTIMIZERS), ("path", PATHS), ("precision", PRECISIONS)):
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(
                    f"{self.section}{field}: {value!r} is not allowed; allowed are {' and '.join(allowed)}"
                )
        check_augment(self.augment, f"{self.section}augment")
        for field, least in (("batch_size", 1), ("epochs", 0)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{self.section}{field}: {value!r} is not allowed; give an integer of {least} or more")
        rates = ("lr",) if self.final_lr is None else ("lr", "final_lr")
        for field in rates:
            value = getattr(self, field)
            if not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ValueError(f"{self.section}{field}: {value!r} is not allowed; give a number above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"{self.section}momentum: {self.momentum!r} is not allowed; give 0 or more, below 1")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"{self.section}weight_decay: {self.weight_decay!r} is not allowed; give 0 or more")

    def rate(self, epoch: int) -> float:
        """The learning rate of pass `epoch` = 0, 1, …"""
        if self.final_lr is None or self.epochs == 0:
            return self.lr
        return float(self.lr * (self.final_lr / self.lr) ** (epoch / self.epochs))


def train(
    model: nn.Module,
    loader: Loader,
    training: Training,
    *,
    seed: int,
    on_epoch: EpochCallback | None = None,
    device: str | torch.device | None = None,
    graphs: Graphs | None = None,
) -> list[dict[str, Any]]:
    """Trains `model` in place with cross-entropy.

    The result depends on the model, the loader, `training` and `seed` only: the global generators are seeded for the
    duration and put back afterwards, and a loader with `set_epoch` is told the pass. Numbers of threads may differ in
    the last bits.

    **Arguments:**

    - `loader`: batches of training data. They are taken as they come, so `batch_size` and `augment` of `training` say
        how to build the loader: `ArrayLoader(…, batch_size=training.batch_size, augment=training.augment,
        shuffle=True)`. With `path: plain` an `ArrayLoader` is turned into a `DataLoader` over Pillow images with the
        same options.
    - `seed`: of dropout, and of a loader that draws from the global generators.
    - `on_epoch`: called with each row of the history. It may read and change the model's weights. Modes, settings and
        what is trained must stay as they are: on a GPU the fast path refuses the change with a `ValueError`.
    - `device`: where to train; None leaves the model where it is.
    - `graphs`: on a GPU, captured steps of earlier models, which this one uses and adds to; the result is the same.

    **Returns:** one row for each pass: `epoch` (1, 2, …), `loss` and `accuracy` (means over the images of the pass,
    each batch before its own update), `lr`, `seconds`, `images`.

    Raises `TrainingDiverged` where the loss is no longer finite, `ValueError` where a batch cannot be trained on.
    """
    return fit(_job(model, loader, training, seed, on_epoch, device), graphs)


def train_together(
    models: Sequence[nn.Module],
    loaders: Sequence[Loader],
    training: Training,
    *,
    seeds: Sequence[int],
    device: str | torch.device | None = None,
    graphs: Graphs | None = None,
) -> list[list[dict[str, Any]]]:
    """Trains several models in place, a step of each in turn; on a GPU each on a stream of its own, so that a small
    model's gaps are filled by the others.

    Each model is trained as by `train` with its own loader and seed. Loaders must draw their random numbers from
    generators of their own or from torch's, as `ArrayLoader` and `DataLoader` do.

    **Arguments:** one loader and one seed for each model; the others as for `train`.

    **Returns:** the history of each model. Its `seconds` are those of the clock, the others' steps included.
    """
    jobs = [
        _job(model, loader, training, seed, None, device)
        for model, loader, seed in zip(models, loaders, seeds, strict=True)
    ]
    return fit_together(jobs, graphs)


def _job(
    model: nn.Module,
    loader: Loader,
    training: Training,
    seed: int,
    on_epoch: EpochCallback | None,
    device: str | torch.device | None,
) -> Job:
    check_seed(seed, "training.seed")
    if device is not None:
        model.to(device)
    if training.path == "plain" and isinstance(loader, ArrayLoader):
        from .plain import plain_loader

        loader = plain_loader(loader)
    return Job(model, loader, training, seed, model.train, on_epoch)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, every module is in evaluation mode; afterwards each is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


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

    **Arguments:** `device` is where batches are moved, None for where the model is; `precision` as in `Training`.

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
                logits.append(model(images).float())
            labels.append(classes)
    if not logits:
        raise ValueError("loader: holds no images to predict")
    # Joined outside inference mode, so that what is returned are ordinary tensors.
    return torch.cat(logits).cpu(), torch.cat(labels).cpu()


def accuracy(
    model: nn.Module, loader: Loader, *, device: str | torch.device | None = None, precision: str = "float32"
) -> float:
    """Share of the loader's images, in [0, 1], whose largest logit is their label's; arguments as for `predict`."""
    target = device_of(model) if device is None else torch.device(device)
    correct = torch.zeros((), dtype=torch.int64, device=target)
    count = 0
    with _inference(model, precision):
        for batch in loader:
            images, labels = to_device(batch, target)
            with autocast(target, precision):
                correct += (model(images).argmax(dim=1) == labels).sum()
            count += len(labels)
    if count == 0:
        raise ValueError("loader: holds no images to predict")
    return correct.item() / count
