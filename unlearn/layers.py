"""The convolution and linear layers of a model: the ones that second moments, projection and top-k speak of."""

from __future__ import annotations

from torch import nn

Projectable = nn.Conv2d | nn.Linear


def projectable_layers(model: nn.Module) -> dict[str, Projectable]:
    """Returns every Conv2d and Linear in the module tree by name, in definition order, shared modules once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def blocks(model: nn.Module) -> list[list[str]]:
    """Returns the names of the layers of each block, shallow to deep.

    A block is a child of the model that holds layers; a plain `nn.Sequential` of single layers is looked into, so that
    each of its layers is a block of its own. ResNet-18 has six: the first convolution, four stages, the last linear.
    """
    found: list[list[str]] = []
    for child_name, child in model.named_children():
        layers = [f"{child_name}.{name}" if name else child_name for name in projectable_layers(child)]
        if not layers:
            continue
        if type(child) is nn.Sequential and all(
            isinstance(child.get_submodule(n.split(".", 1)[1]), Projectable) for n in layers if "." in n
        ):
            direct = all(n.count(".") == child_name.count(".") + 1 for n in layers)
            if direct:
                found.extend([name] for name in layers)
                continue
        found.append(layers)
    return found


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
    """Returns (groups, outputs of a group, d): how the layer's weight is seen by second moments and projection."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    weight = layer.weight
    return groups, weight.shape[0] // groups, weight[0].numel()
