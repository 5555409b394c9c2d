"""Which captured step fits which model: what a graph of one model's step takes for granted.

A replayed graph runs the kernels that were recorded and nothing of Python's. So two models share
one where all that Python could do differently is the same.
"""

from __future__ import annotations

import pickle
import types
from collections.abc import Hashable
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.numerics import switches
from .recipe import Training

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_GENERATORS = (Random, np.random.Generator, np.random.RandomState, torch.Generator)
Attributes = dict[tuple[str, str], Hashable]


def has_hooks(model: nn.Module) -> bool:
    """Whether something of Python's runs in the model's step, which a replayed graph would leave
    out.
    """
    return any(getattr(module, name) for module in model.modules() for name in _HOOKS)


class _Same:
    """Equal to itself alone: what cannot be compared makes a signature that no other model has."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def _comparable(value: Any, module: nn.Module) -> Hashable:
    if isinstance(value, (list, tuple)):
        return (type(value), *(_comparable(each, module) for each in value))
    if isinstance(value, dict):
        return (type(value), *((_comparable(key, module), _comparable(each, module)) for key, each in value.items()))
    if isinstance(value, (set, bytearray)):
        return (type(value), frozenset(value) if isinstance(value, set) else bytes(value))
    if isinstance(value, _GENERATORS):
        return (type(value), pickle.dumps(_state_of(value)))
    if isinstance(value, types.MethodType) and value.__self__ is module:
        return value.__func__
    if isinstance(value, Tensor):
        return (_Same(value), None if value.is_inference() else value._version)
    if isinstance(value, nn.Module):
        return _Same(value)
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return (type(value), value)


def _state_of(generator: Any) -> Any:
    if isinstance(generator, Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return generator.get_state()
    if isinstance(generator, torch.Generator):
        return bytes(generator.get_state().numpy())
    return generator.bit_generator.state


def attributes_of(model: nn.Module) -> Attributes:
    """What the modules hold beside parameters, buffers and modules, by the module's name and the
    attribute's.
    """
    return {
        (name, key): _comparable(value, module)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key not in _OF_EVERY_MODULE
    }


def fixed_attributes(model: nn.Module) -> Attributes:
    """What a callback may change and a captured graph of the model's step cannot follow. That is
    attributes that are numbers, texts or flags, modes, hooks, and which parameters of which shapes
    are trained.
    """
    kinds = (bool, int, float, str, type(None))
    found: Attributes = {
        name: value for name, value in attributes_of(model).items() if isinstance(value, tuple) and value[0] in kinds
    }
    found |= {(name, "training"): module.training for name, module in model.named_modules()}
    found |= {(name, "requires_grad"): weight.requires_grad for name, weight in model.named_parameters()}
    found |= {(name, "shape"): tensor.shape for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    return {**found, ("", "hooks"): has_hooks(model)}


def changed_names(before: Attributes, after: Attributes) -> list[str]:
    missing = object()
    names = {**before, **after}
    return [".".join(filter(None, name)) for name in names if before.get(name, missing) != after.get(name, missing)]


def signature(model: nn.Module, training: Training, images: Tensor, labels: Tensor) -> Hashable:
    """What must be equal for one model's graph to serve another. That is every module's class,
    settings and mode, and every tensor's shape and whether it is trained. It is the optimiser's
    settings but for the rate, and the batch's shape. It is also the process's switches, by which
    the captured kernels were chosen.
    """
    modules = [(name, type(module), module.training) for name, module in model.named_modules()]
    tensors = [
        (name, tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    ]
    recipe = (training.optimizer, training.momentum, training.weight_decay, training.precision)
    batch = tuple((each.shape, each.dtype, each.stride(), each.device) for each in (images, labels))
    return (tuple(modules), frozenset(attributes_of(model).items()), tuple(tensors), recipe, batch, switches())
