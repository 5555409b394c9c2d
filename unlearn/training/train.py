"""Training, prediction and accuracy of classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..core.batches import EpochCallback, Loader
from ..core.seeds import check_seed
from ..data.loader import ArrayLoader
from .graphs import Graphs
from .loop import Job, TrainingDiverged, fit, fit_together
from .plain import plain_loader
from .recipe import Training

__all__ = ["Training", "TrainingDiverged", "train", "train_together"]


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

    The result depends on the model, the loader, `training` and `seed` only. The global generators
    are seeded for the duration and put back afterwards. A loader with `set_epoch` is told the pass.
    Numbers of threads may differ in the last bits.

    **Arguments:**

    - `loader`: batches of training data. They are taken as they come, so `batch_size` and `augment`
        of `training` say how to build the loader: `ArrayLoader(…, batch_size=training.batch_size,
        augment=training.augment, shuffle=True)`. With `path: plain` an `ArrayLoader` is turned into
        a `DataLoader` over Pillow images with the same options.
    - `seed`: of dropout, and of a loader that draws from the global generators.
    - `on_epoch`: called with each row of the history. It may read and change the model's weights.
        Modes, settings and what is trained must stay as they are: on a GPU the fast path refuses
        the change with a `ValueError`.
    - `device`: where to train; None leaves the model where it is.
    - `graphs`: on a GPU, captured steps of earlier models, which this one uses and adds to; the
        result is the same.

    **Returns:** one row for each pass: `epoch` (1, 2, …), `loss`, `accuracy`, `lr`, `seconds`,
    `images`. Loss and accuracy are means over the images of the pass, each batch before its own
    update.

    Raises `TrainingDiverged` where the loss is no longer finite, `ValueError` where a batch cannot
    be trained on.
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
    """Trains several models in place, a step of each in turn. On a GPU each runs on a stream of its
    own, so that a small model's gaps are filled by the others.

    Each model is trained as by `train` with its own loader and seed. Loaders must draw their random
    numbers from generators of their own or from torch's, as `ArrayLoader` and `DataLoader` do.

    **Arguments:** one loader and one seed for each model; the others as for `train`.

    **Returns:** the history of each model. Its `seconds` are those of the clock, the others' steps
    included.
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
        loader = plain_loader(loader)
    return Job(model, loader, training, seed, model.train, on_epoch)
