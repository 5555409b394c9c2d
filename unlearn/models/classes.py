"""Forgetting whole classes: their rows of the last linear layer are taken out of the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def kept_classes(num_classes: int, dropped: tuple[int, ...]) -> Tensor:
    """The classes not in `dropped`, int64, ascending: entry i is the class of output i once
    `dropped` are taken out.

    Raises `ValueError` where a class is out of range or none is left.
    """
    for label in dropped:
        if not 0 <= label < num_classes:
            raise ValueError(f"forget_classes: {label} is no class; allowed are 0 to {num_classes - 1}")
    kept = [label for label in range(num_classes) if label not in dropped]
    if not kept:
        raise ValueError(f"forget_classes: all {num_classes} classes would be dropped; keep one at least")
    return torch.tensor(kept, dtype=torch.int64)


def last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    """Returns the name and the module of the last linear layer. Raises `ValueError` where there is
    none."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not found:
        raise ValueError("model: it has no linear layer to take classes from")
    return found[-1]


def with_module(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Puts `module` in the place of the one called `name`, in place; returns the model, or `module`
    where it is all."""
    if not name:
        return module
    parent, _, key = name.rpartition(".")
    setattr(model.get_submodule(parent), key, module)
    return model


def drop_classes(model: nn.Module, classes: tuple[int, ...]) -> nn.Module:
    """Takes the rows of `classes` out of the last linear layer of `model`, in place, and returns
    `model`.

    The model then has one output for each kept class, in ascending order (see `kept_classes`). No
    classes, no change.

    Raises `ValueError` where the model has no linear layer or a class is out of range.
    """
    if not classes:
        return model
    name, linear = last_linear(model)
    kept = kept_classes(linear.out_features, tuple(classes)).to(linear.weight.device)
    weight, bias = linear.weight, linear.bias
    smaller = nn.Linear(
        linear.in_features, len(kept), bias=bias is not None, device=torch.device("meta"), dtype=weight.dtype
    )
    smaller.weight = nn.Parameter(weight.detach()[kept].clone(), requires_grad=weight.requires_grad)
    if bias is not None:
        smaller.bias = nn.Parameter(bias.detach()[kept].clone(), requires_grad=bias.requires_grad)
    smaller.train(linear.training)
    return with_module(model, name, smaller)
