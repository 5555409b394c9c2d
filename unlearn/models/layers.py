"""The convolution and linear layers of a model:

the ones that second moments, projection and top-k speak of.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..core.errors import UnlearnError

Projectable = nn.Conv2d | nn.Linear
Layer = nn.modules.conv._ConvNd | nn.Linear
_KINDS = (nn.modules.conv._ConvNd, nn.Linear)


def projectable_layers(model: nn.Module) -> dict[str, Projectable]:
    """Returns every Conv2d and Linear in the module tree by name, in definition order, shared
    modules once.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def layers_of(model: nn.Module) -> dict[str, Layer]:
    """Returns every convolution and linear layer by name, in definition order, shared ones once.

    These are what `k` counts for every method; projection is for the kinds of `Projectable` alone.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, _KINDS)}


@dataclass(frozen=True)
class Depth:
    """One step of depth: a layer, or a block of layers.

    **Arguments:** `start`: the name of the module that it begins with. `layers`: of the layers.
    """

    start: str
    layers: tuple[str, ...]


def depths(model: nn.Module, unit: str = "layers") -> list[Depth]:
    """Returns the layers of a model, or its blocks, shallow to deep.

    A block is a child of the model that holds layers. A plain `nn.Sequential` of nothing but layers
    (and what holds none) is a chain of blocks of one layer each. A model that only wraps another
    has the other's blocks. ResNet-18 has six: the first convolution, four stages, the last linear.
    """
    if unit == "layers":
        return [Depth(name, (name,)) for name in layers_of(model)]
    prefix, holding = "", _children(model)
    while len(holding) == 1 and not isinstance(next(iter(holding.values())), _KINDS):
        name, inner = next(iter(holding.items()))
        prefix, holding = f"{prefix}{name}.", _children(inner)
    if not holding:
        return depths(model)
    found: list[Depth] = []
    for name, child in holding.items():
        chain = type(child) is nn.Sequential and all(isinstance(part, _KINDS) for part in _children(child).values())
        layers = tuple(f"{prefix}{name}.{layer}" if layer else f"{prefix}{name}" for layer in layers_of(child))
        found.extend([Depth(layer, (layer,)) for layer in layers] if chain else [Depth(f"{prefix}{name}", layers)])
    return found


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """The children that hold a convolution or linear layer, or are one."""
    return {name: child for name, child in module.named_children() if layers_of(child)}


def deepest(model: nn.Module, k: int, unit: str = "layers", field: str = "k") -> list[Depth]:
    """Returns the `k` deepest layers or blocks, shallow to deep: what `k` means for every method.

    **Arguments:** `field`: the setting that errors name.

    Raises `UnlearnError` where the model has fewer than `k`.
    """
    found = depths(model, unit)
    if not 1 <= k <= len(found):
        raise UnlearnError(f"{field}: {k} is not allowed; the model has {len(found)} {unit}, so give 1 to {len(found)}")
    return found[-k:]


def weight_matrix_shape(layer: Projectable) -> tuple[int, int, int]:
    """Returns (groups, outputs of a group, d):

    how the layer's weight is seen by second moments and projection.
    """
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    weight = layer.weight
    return groups, weight.shape[0] // groups, weight[0].numel()
