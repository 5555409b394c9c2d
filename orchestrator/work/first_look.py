"""The user's model is tried before any work: two images, its logits, its file, and how well it
does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors.torch import save
from torch import nn

from unlearn import UnlearnError, accuracy
from unlearn.methods.base import Method
from unlearn.models.probe import Probe, probe

from ..base.errors import UserError, first_line
from .context import Context
from .tensors import tensors_of

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


def told_accuracy(model: nn.Module, context: Context) -> list[str]:
    """Returns how well a given model does on the training images, and a question where that is
    little better than chance."""
    dataset, split = context.data.dataset, context.data.split
    count = min(SAMPLES, len(dataset.train.labels))
    rows = torch.linspace(0, len(dataset.train.labels) - 1, count).round().long().numpy()
    share = accuracy(model, context.loader("train", rows))
    told = [f"the model as given is right on {100 * share:.1f} % of {count:,} training images"]
    if share < 0.5 and len(split.labels):
        told.append(
            f"is it given the images that it was trained on? They are normalised by mean {_shown(dataset.mean)} and std "
            f"{_shown(dataset.std)}; set dataset.mean and dataset.std to those of its training"
        )
    return told


def _shown(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"
