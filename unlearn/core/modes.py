"""A model's modes and the flags of its parameters, put back as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

from torch import nn

NORMS = (nn.modules.batchnorm._NormBase,)  # the kinds with running statistics
# Batches of so few images, or fewer, spoil these statistics (docs/LOG.md, 2026-11-30).
FEW = 8


@contextlib.contextmanager
def modes_kept(*models: nn.Module) -> Iterator[None]:
    """Afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def flags_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards parameters require a gradient as they did."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def frozen_notes(model: nn.Module, moving: Collection[int]) -> list[str]:
    """Returns what to tell a user who froze weights that a method moves all the same.

    **Arguments:** `moving`: the `id` of each parameter that the method moves.
    """
    frozen = [name for name, p in model.named_parameters() if id(p) in moving and not p.requires_grad]
    if not frozen:
        return []
    more = f" and {len(frozen) - 3} more" if len(frozen) > 3 else ""
    return [f"frozen in the model that was given, and changed all the same: {', '.join(frozen[:3])}{more}"]


def few_notes(model: nn.Module, images: int) -> list[str]:
    """Returns what to tell of the smallest batch of a pass, where normalisation learns from it."""
    if images > FEW or not any(isinstance(module, NORMS) and module.training for module in model.modules()):
        return []
    return [f"the smallest batch held {images} images; so few spoil batch normalisation: choose another batch_size"]


def train_with_norms_frozen(model: nn.Module) -> None:
    """Sets the modes of training: dropout is active, but normalisation keeps its running
    statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, NORMS):
            module.eval()
