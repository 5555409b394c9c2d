"""The convolution and linear layers of a model:

the ones that second moments, projection and top-k speak of.
"""

from __future__ import annotations

from torch import nn

Projectable = nn.Conv2d | nn.Linear


def projectable_layers(model: nn.Module) -> dict[str, Projectable]:
    """Returns every Conv2d and Linear in the module tree by name, in definition order, shared
    modules once.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def blocks(model: nn.Module) -> list[list[str]]:
    """Returns the names of the layers of each block, shallow to deep.

    A block is a child of the model that holds layers. A plain `nn.Sequential` of nothing but layers
    (and what holds none) is a chain of blocks of one layer each. A model that only wraps another
    has the other's blocks. ResNet-18 has six: the first convolution, four stages, the last linear.
    """
    prefix, holding = "", _children(model)
    while len(holding) == 1 and not isinstance(next(iter(holding.values())), Projectable):
        name, inner = next(iter(holding.items()))
        prefix, holding = f"{prefix}{name}.", _children(inner)
    found: list[list[str]] = [] if holding else [[name] for name in projectable_layers(model)]
    for name, child in holding.items():
        inside = _children(child)
        chain = type(child) is nn.Sequential and all(isinstance(part, Projectable) for part in inside.values())
        layers = [f"{prefix}{name}.{layer}" if layer else f"{prefix}{name}" for layer in projectable_layers(child)]
        found.extend([[layer] for layer in layers] if chain else [layers])
    return found


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """The children that hold a convolution or linear layer, or are one."""
    return {name: child for name, child in module.named_children() if projectable_layers(child)}


def deepest_layers(model: nn.Module, k: int, unit: str = "layers") -> list[str]:
    """Returns the names of the layers in the `k` deepest layers or blocks, in definition order.

    **Raises:** `ValueError` where the model has fewer than `k`.
    """
    names = list(projectable_layers(model))
    groups = [[name] for name in names] if unit == "layers" else blocks(model)
    if not 1 <= k <= len(groups):
        raise ValueError(f"top_k: {k} is not allowed; the model has {len(groups)} {unit}, so give 1 to {len(groups)}")
    chosen = {name for group in groups[-k:] for name in group}
    return [name for name in names if name in chosen]


def weight_matrix_shape(layer: Projectable) -> tuple[int, int, int]:
    """Returns (groups, outputs of a group, d):

    how the layer's weight is seen by second moments and projection.
    """
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    weight = layer.weight
    return groups, weight.shape[0] // groups, weight[0].numel()
