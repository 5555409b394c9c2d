"""Cutting a model where its frozen part ends, so that what does not change is computed once.

`torch.fx` gives the graph of the forward pass. A node is frozen where all that it depends on is:
inputs, weights that do not move, no randomness. The values that cross from frozen to moving nodes
are what is worth keeping. Any model that cannot be traced, or whose cut halves do not compute what
the whole does, is left whole.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..core.modes import NORMS, modes_kept
from ..core.seeds import seeded
from ..models.layers import layers_of
from ..models.logits import classify, logits_of


@dataclass(frozen=True)
class Cut:
    """A model in two parts: `suffix(prefix(images))` is the forward pass.

    Where several values cross the cut they are laid side by side in one tensor `(n, features)`.
    """

    prefix: nn.Module
    suffix: nn.Module


def cut(model: nn.Module, moving: Collection[Tensor], example: Tensor) -> Cut | None:
    """Returns `model` in two parts at the end of what `moving` weights do not touch, or None where
    that is nothing.

    **Arguments:** `example`: images `(2 or more, …)` on the model's device that the halves are
    checked with. The model's modules must be in the modes that it is trained in. Parts share its
    modules; nothing is copied.
    """
    weights = {id(weight) for weight in moving}
    for attempt in (_by_chain, _inside, _outside):
        try:
            parts = attempt(model, weights, example)
            if parts is None and attempt is _by_chain:
                continue
            if parts is None or _agrees(model, parts, example):
                return parts
        except Exception:
            # Tracing runs the user's forward with stand-in values, and that may raise anything at
            # all (control flow on values, foreign extensions). The whole model is always right,
            # only slower.
            continue
    return None


def chain_of(model: nn.Module) -> list[nn.Module] | None:
    """The modules whose composition is the model's forward pass, or None where that is not known.

    It is known for `nn.Sequential`, also nested, and for models with a method `chain()` that lists
    them.
    """
    listed = getattr(model, "chain", None)
    if callable(listed):
        parts = list(listed())
    elif isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward:
        parts = list(model)
    else:
        return None
    return [module for part in parts for module in (chain_of(part) or [part])]


def _by_chain(model: nn.Module, weights: set[int], example: Tensor) -> Cut | None:
    """Cuts a chain ahead of the first part that changes, if nothing inside that part is frozen.

    The halves are plain modules: captured steps of one model then fit the next one.
    """
    chain = chain_of(model) or []
    length = next((i for i, part in enumerate(chain) if not _fixed(part, weights)), len(chain))
    if not 0 < length < len(chain):
        return None
    if not all(id(layer.weight) in weights for layer in layers_of(chain[length]).values()):
        return None
    return Cut(nn.Sequential(*chain[:length]), nn.Sequential(*chain[length:]))


def _inside(model: nn.Module, weights: set[int], example: Tensor) -> Cut | None:
    return _split(model, _Tracer(weights, inside=True).trace(model), weights, example)


def _outside(model: nn.Module, weights: set[int], example: Tensor) -> Cut | None:
    return _split(model, _Tracer(weights, inside=False).trace(model), weights, example)


def _fixed(module: nn.Module, weights: set[int]) -> bool:
    """Whether a module gives the same output for the same input every time.

    It does not where it holds a moving weight or a dropout, or learns the statistics of batches.
    """
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            return False
        if isinstance(part, NORMS) and part.training:
            return False
    return not any(id(parameter) in weights for parameter in module.parameters())


class _Tracer(fx.Tracer):
    """Looks into modules that hold a moving weight (`inside`), or into containers only."""

    def __init__(self, weights: set[int], inside: bool) -> None:
        super().__init__()
        self.weights, self.inside = weights, inside

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m) is nn.Sequential:
            return False
        moves = any(id(parameter) in self.weights for parameter in m.parameters())
        return not (self.inside and moves) or super().is_leaf_module(m, module_qualified_name)


def _split(model: nn.Module, graph: fx.Graph, weights: set[int], example: Tensor) -> Cut | None:
    frozen: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op != "output" and all(n in frozen for n in node.all_input_nodes) and _constant(model, node, weights):
            frozen.add(node)
    crossing = [
        node for node in graph.nodes if node in frozen and node.op != "get_attr" and any(u not in frozen for u in node.users)
    ]  # fmt: skip
    if not crossing or all(node.op == "placeholder" for node in crossing):
        return None
    first = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in frozen:
            copies[node] = first.node_copy(node, lambda n: copies[n])
    first.output(tuple(copies[node] for node in crossing))
    prefix = _Prefix(fx.GraphModule(model, first))
    with torch.no_grad():
        shapes = [value.shape[1:] for value in prefix.values(example)]

    second = fx.Graph()
    given = second.placeholder("values")
    copies = {node: second.call_function(_item, (given, index)) for index, node in enumerate(crossing)}
    for node in graph.nodes:
        if node not in frozen or node.op == "get_attr":
            copies[node] = second.node_copy(node, lambda n: copies[n])
    return Cut(prefix, _Suffix(fx.GraphModule(model, second), shapes))


def _constant(model: nn.Module, node: fx.Node, weights: set[int]) -> bool:
    """Whether a node whose inputs do not change gives the same output every time."""
    if node.op == "call_module":
        return _fixed(model.get_submodule(str(node.target)), weights)
    if node.op == "get_attr":
        value: Any = model
        for name in str(node.target).split("."):
            value = getattr(value, name)
        return id(value) not in weights
    return "dropout" not in str(node.target)


def _item(values: list[Tensor], index: int) -> Tensor:
    return values[index]


class _Prefix(nn.Module):
    """The frozen part: images to one tensor."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph

    def values(self, images: Tensor) -> list[Tensor]:
        return list(self.graph(images))

    def forward(self, images: Tensor) -> Tensor:
        values = self.values(images)
        return values[0] if len(values) == 1 else torch.cat([value.flatten(1) for value in values], dim=1)


class _Suffix(nn.Module):
    """The moving part: that tensor to logits."""

    def __init__(self, graph: fx.GraphModule, shapes: list[torch.Size]) -> None:
        super().__init__()
        self.graph, self.shapes = graph, shapes

    def forward(self, packed: Tensor) -> Tensor:
        if len(self.shapes) == 1:
            return self.graph([packed])
        parts = packed.split([shape.numel() for shape in self.shapes], dim=1)
        return self.graph([part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)])


def _agrees(model: nn.Module, parts: Cut, example: Tensor) -> bool:
    """Whether the halves compute what the whole does, in the modes of training and in evaluation,
    for two batch sizes.

    This finds what a trace can get wrong. It may take randomness or a mode for a constant, write a
    batch size down, or miss a value changed in place after the cut.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with modes_kept(model, parts.prefix, parts.suffix):
            for evaluating in (False, True):
                if evaluating:
                    for part in (model, parts.prefix, parts.suffix):
                        part.eval()
                for images in (example, example[:-1]):
                    with torch.no_grad():
                        with seeded(1):
                            whole = classify(model, images)
                        with seeded(2):
                            value = parts.prefix(images).clone()
                        with seeded(1):
                            halves = logits_of(parts.suffix(value))
                    if whole.shape != halves.shape or not torch.allclose(whole, halves, rtol=1e-4, atol=1e-5):
                        return False
        return True
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
