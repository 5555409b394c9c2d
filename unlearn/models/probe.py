"""A look at a model before any work: what two images come out as, and which layers made the logits,
in what order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batches import Loader, device_of, to_device
from ..core.errors import UnlearnError
from ..core.modes import flags_kept, modes_kept
from .logits import forward, logits_of

_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
_LEFT_ALONE = (nn.Conv1d, nn.Conv3d, nn.modules.conv._ConvTransposeNd, nn.RNNBase, nn.MultiheadAttention, nn.Embedding)


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    **Arguments:**

    - `defined`: the convolution and linear layers by name, in definition order. `executed`: in the
        order of their last run.
    - `unused`: layers that the logits do not depend on.
    - `feeds`: of each layer that runs after layers defined behind it, those of them that it depends
        on.
    - `left_alone`: modules with weights that projection does not reach, such as transposed
        convolutions and attention.
    - `outputs`: how many logits there are.
    """

    defined: tuple[str, ...]
    executed: tuple[str, ...]
    unused: tuple[str, ...]
    left_alone: tuple[str, ...]
    feeds: Mapping[str, frozenset[str]]
    outputs: int

    def require_deepest(self, names: Iterable[str], what: str) -> None:
        """Makes sure that what runs on the outputs of `names` is among `names` itself, as it is for
        the deepest layers.

        **Raises:** `UnlearnError` where another layer runs on them, or the logits do not depend on
        one. Layers that are defined in another order than they run in would else be taken for
        shallow ones. Branches beside each other have none.
        """
        chosen = {name for name in names if name in self.defined}
        for name in sorted(chosen & set(self.unused)):
            raise UnlearnError(
                f"model: {name} has no part in the logits, so {what} must not count it; remove it from the model"
            )
        for later, before in self.feeds.items():
            early = sorted(before & chosen)
            if later not in chosen and early:
                raise UnlearnError(
                    f"model: {later} runs after {early[-1]} but is defined before it, so {what} would take the wrong layers; "
                    "define layers in the order in which they run"
                )

    def require_head(self, model: nn.Module, num_classes: int | None = None) -> None:
        """Makes sure that the linear layer defined last makes the logits, as taking classes out of
        a model needs.

        **Arguments:** `num_classes`: how many outputs it must have; None: as many as there are
        logits.

        **Raises:** `UnlearnError` where it does not.
        """
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise UnlearnError("model: it has no linear layer to take classes from")
        head = linear[-1]
        after = [later for later, before in self.feeds.items() if head in before]
        if head in self.unused or after:
            used = [name for name in self.executed if name not in self.unused]
            maker = (after or used or ["another layer"])[-1]
            raise UnlearnError(
                f"model: {head or 'it'} is the last linear layer defined, but {maker} makes the logits; "
                "define the layer that makes them last"
            )
        outputs = model.get_submodule(head).out_features
        wanted = self.outputs if num_classes is None else num_classes
        if outputs != wanted:
            raise UnlearnError(f"model: {head} has {outputs} outputs for {wanted} classes; they must be as many")


def probe(model: nn.Module, images: Tensor, num_classes: int | None = None) -> Probe:
    """Runs two images through a model, which is left as it was.

    **Arguments:** `images`: float32 `(2, channels, height, width)`, on the model's device.
    `num_classes`: how many logits there must be; None takes any number.

    **Raises:** `UnlearnError`, one line. Weights are not finite, or the model cannot run, or it
    returns anything but a finite tensor of shape `(2, classes)`.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UnlearnError(f"model: {name} holds NaN or infinity; give weights of a training that went well")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _LAYERS)}
    runs: dict[str, _Run] = {}
    hooks = [module.register_forward_hook(_count(runs, inside)) for module, inside in _watched(model, layers)]
    try:
        with flags_kept(model), modes_kept(model), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            model.eval()
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    parameter.requires_grad_(True)
            logits = _checked(_forward(model, images), len(images), num_classes)
            weights = [layer.weight for layer in layers.values()]
            gradients: list[Any] = [None] * len(weights)
            if logits.requires_grad and weights:
                gradients = list(torch.autograd.grad(logits.sum(), weights, retain_graph=True, allow_unused=True))
            executed = tuple(sorted(runs, key=lambda name: runs[name].place))
            feeds = _feeds(runs, list(layers))
    finally:
        for hook in hooks:
            hook.remove()
    unused = tuple(name for name, gradient in zip(layers, gradients, strict=True) if gradient is None)
    left_alone = tuple(name for name, module in model.named_modules() if isinstance(module, _LEFT_ALONE))
    return Probe(tuple(layers), executed, unused, left_alone, feeds, logits.shape[1])


def probe_with(model: nn.Module, loader: Loader, num_classes: int | None = None) -> Probe | None:
    """Runs the first two images of a loader through a model, see `probe`. None for a loader that
    can be read only once.

    **Raises:** `UnlearnError` also for an empty loader.
    """
    normalise: Any = getattr(loader, "normalise", None)
    images: Any = getattr(loader, "images", None)
    # an `ArrayLoader`: a pass over it would count as one
    if normalise is not None and images is not None:
        two = normalise(images[:2])
    elif isinstance(loader, Iterator):
        return None
    else:
        # a shuffling loader draws from the global generator
        with torch.random.fork_rng(devices=[]):
            batch = next(iter(loader), None)
        if batch is None:
            raise UnlearnError("loader: holds no images")
        two = to_device(batch, device_of(model))[0][:2]
    return probe(model, two.to(device_of(model)), num_classes)


def _watched(model: nn.Module, layers: Mapping[str, nn.Module]) -> list[tuple[nn.Module, list[str]]]:
    """Returns the modules whose runs count, with the layers that each run executes."""
    found = [(module, [name]) for name, module in layers.items()]
    for name, module in model.named_modules():
        # it uses its last layer's weight without calling it
        if isinstance(module, nn.MultiheadAttention):
            found.append((module, [f"{name}.out_proj" if name else "out_proj"]))
    return found


@dataclass(frozen=True)
class _Run:
    """The last run of a layer: when it was, and what went in and came out."""

    place: int
    given: Any
    result: Any


def _count(runs: dict[str, _Run], names: list[str]) -> Callable[..., None]:
    def hook(module: nn.Module, given: Any, result: Any) -> None:
        for name in names:
            runs[name] = _Run(len(runs) if not runs else max(run.place for run in runs.values()) + 1, given, result)

    return hook


def _feeds(runs: Mapping[str, _Run], defined: list[str]) -> dict[str, frozenset[str]]:
    """Returns, of each layer that runs after some that are defined behind it, those whose outputs
    it depends on."""
    found = {}
    for place, name in enumerate(defined):
        behind = [other for other in defined[place + 1 :] if name in runs and other in runs]
        earlier = {other: _tensor(runs[other].result) for other in behind if runs[other].place < runs[name].place}
        given = _tensor(runs[name].given) if earlier else None
        known = {other: tensor for other, tensor in earlier.items() if tensor is not None}
        if given is None or not known:
            continue
        gradients = torch.autograd.grad(given.sum(), list(known.values()), retain_graph=True, allow_unused=True)
        used = frozenset(other for other, gradient in zip(known, gradients, strict=True) if gradient is not None)
        if used:
            found[name] = used
    return found


def _tensor(value: Any) -> Tensor | None:
    """Returns the first tensor with a gradient in what a module was given or gave back."""
    values = value if isinstance(value, tuple | list) else (value,)
    return next((each for each in values if isinstance(each, Tensor) and each.requires_grad), None)


def _forward(model: nn.Module, images: Tensor) -> Any:
    try:
        return forward(model, images)
    except Exception as error:
        lines = str(error).strip().splitlines()
        text = lines[0] if lines else type(error).__name__
        kinds = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()}
        hint = (
            f"; its weights are {', '.join(sorted(kinds))}, convert it by model.float()" if kinds - {"float32"} else ""
        )
        shape = "x".join(map(str, images.shape[1:]))
        raise UnlearnError(
            f"model: cannot run on images of {shape} float32 ({type(error).__name__}: {text}){hint}"
        ) from None


def _checked(found: Any, count: int, num_classes: int | None) -> Tensor:
    """Returns the logits; raises `UnlearnError` where they are no tensor of shape `(count,
    classes)`."""
    classes = "classes" if num_classes is None else str(num_classes)
    found = logits_of(found, classes)
    if found.ndim != 2 or found.shape[0] != count or (num_classes is not None and found.shape[1] != num_classes):
        raise UnlearnError(
            f"model: {count} images come out as {tuple(found.shape)}; logits ({count}, {classes}) are needed"
        )
    if not found.is_floating_point():
        raise UnlearnError(f"model: forward returns {found.dtype}; logits of a floating-point type are needed")
    if not bool(torch.isfinite(found).all()):
        raise UnlearnError("model: its logits of two images hold NaN or infinity")
    return found
