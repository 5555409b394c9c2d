"""The user's model is tried before any work: two images, its logits, its file, and how well it
does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from unlearn import UnlearnError, accuracy
from unlearn.methods.base import Method
from unlearn.models.probe import Probe, probe

from ..base.errors import UserError, first_line
from .context import Context
from .tensors import tensors_of

# Normalisations that people train with.
COMMON = {
    "ImageNet's numbers": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "numbers from -1 to 1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "numbers from 0 to 1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
SAMPLES = 2000  # images that the given model's accuracy is taken of


def look_at(model: nn.Module, context: Context, methods: Sequence[Method] = ()) -> Probe:
    """Runs two training images through a model and saves it once, in memory.

    **Arguments:** `methods`: that are going to work on it.

    **Raises:** `UserError`, one line, where the model cannot be worked with.
    """
    dataset = context.data.dataset
    loader = context.loader("train")
    try:
        found = probe(model, loader.normalise(loader.images[:2]), dataset.num_classes)
        if context.data.split.forget_classes:
            found.require_head(model, dataset.num_classes)
        for method in methods:
            method.check_model(model, found)
        save(tensors_of(model))
    except UnlearnError as error:
        raise UserError(str(error)) from None
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"model: its weights cannot be saved ({first_line(error)})") from None
    return found


def remarks(found: Probe) -> list[str]:
    """Returns what a user should know of a model that can be worked with."""
    notes = []
    if found.unused:
        notes.append(f"model: {', '.join(found.unused[:5])} has no part in the logits and stays as it is")
    if found.left_alone:
        notes.append(
            f"model: projection reaches convolutions in two dimensions and linear layers; {', '.join(found.left_alone[:5])} "
            "is left as it is by methods that project"
        )
    return notes


@dataclass(frozen=True)
class FirstAccuracy:
    """How a given model does on training images: its share of right answers, and that of always
    naming the most frequent class."""

    share: float
    chance: float
    images: int

    @property
    def near_chance(self) -> bool:
        """Whether the model does no better than naming one class, beyond what chance allows."""
        spread = (self.chance * (1.0 - self.chance) / max(1, self.images)) ** 0.5
        return self.share <= self.chance + 3.0 * spread

    def __str__(self) -> str:
        return f"the model as given is right on {100 * self.share:.1f} % of {self.images:,} training images"


def first_accuracy(model: nn.Module, context: Context) -> FirstAccuracy:
    """Returns how well a given model does on the training images."""
    labels = context.data.split.labels
    count = min(SAMPLES, len(labels))
    rows = torch.linspace(0, len(labels) - 1, count).round().long().numpy()
    share = accuracy(model, context.loader("train", rows))
    classes = np.bincount(labels[rows], minlength=context.data.dataset.num_classes)
    return FirstAccuracy(share, float(classes.max() / count), count)


def require_trained(model: nn.Module, context: Context, found: FirstAccuracy, anyway: bool) -> list[str]:
    """Returns what a user should know of a model's accuracy before any work.

    **Raises:** `UserError` where it is near chance, with the likely reason, unless `anyway`.
    """
    dataset = context.data.dataset
    told = [str(found)]
    if found.share < 0.5:
        told.append(
            f"is it given the images that it was trained on? They are normalised by mean {_shown(dataset.mean)} and std "
            f"{_shown(dataset.std)}; set dataset.mean and dataset.std, or dataset.preprocess, to those of its training"
        )
        told += _better(model, context, found)
    if found.near_chance and not anyway:
        raise UserError("\n".join([*told, "model: that is chance; nothing was started (--anyway goes on)"]))
    return told


def _better(model: nn.Module, context: Context, found: FirstAccuracy) -> list[str]:
    """Returns a hint where the model does much better on images that are normalised as is
    common."""
    channels = context.data.dataset.channels
    known = {name: (mean[:channels], std[:channels]) for name, (mean, std) in COMMON.items()}
    best, most = "", max(1.5 * found.share, found.share + 0.1)
    for name, (mean, std) in known.items():
        dataset = context.data.dataset.normalised(mean, std)
        other = Context(None, replace(context.data, dataset=dataset), device=context.device)
        share = first_accuracy(model, other).share
        if share > most:
            best, most = (
                f"with {name} (mean {_shown(mean)}, std {_shown(std)}) it is right on {100 * share:.1f} %",
                share,
            )
    return [best] if best else []


def _shown(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"
