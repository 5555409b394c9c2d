"""A look at a model before any work: what two images come out as, and which layers made the logits, in what order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batches import Loader, device_of
from ..core.errors import UnlearnError

_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
_LEFT_ALONE = (nn.Conv1d, nn.Conv3d, nn.modules.conv._ConvTransposeNd, nn.RNNBase, nn.MultiheadAttention, nn.Embedding)


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    **Arguments:**

    - `defined`: the convolution and linear layers by name, in definition order. `executed`: in the order of their last run.
    - `unused`: layers that the logits do not depend on.
    - `left_alone`: modules with weights that projection does not reach, such as transposed convolutions and attention.
    """

    defined: tuple[str, ...]
    executed: tuple[str, ...]
    unused: tuple[str, ...]
    left_alone: tuple[str, ...]

    def require_deepest(self, names: Iterable[str], what: str) -> None:
        """Makes sure that `names` are the layers that run last.

        **Raises:** `UnlearnError` where other layers run after them, or the logits do not depend on one. Layers that are
        defined in another order than they run in would else be taken for shallow ones.
        """
        chosen = [name for name in names if name in self.defined]
        for name in chosen:
            if name in self.unused:
                raise UnlearnError(
                    f"model: {name} has no part in the logits, so {what} must not count it; remove it from the model"
                )
        running = [name for name in chosen if name in self.executed]
        last = self.executed[len(self.executed) - len(running) :]
        later = [name for name in last if name not in running]
        if later:
            early = next(name for name in running if name not in last)
            raise UnlearnError(
                f"model: {later[-1]} runs after {early} but is defined before it, so {what} would take the wrong layers; "
                "define layers in the order in which they run"
            )

    def require_head(self, model: nn.Module, num_classes: int) -> None:
        """Makes sure that the linear layer defined last makes the logits, as taking classes out of a model needs.

        **Raises:** `UnlearnError` where it does not.
        """
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise UnlearnError("model: it has no linear layer to take classes from")
        head = linear[-1]
        makes = [name for name in self.executed if name not in self.unused]
        if head in self.unused or (makes and makes[-1] != head):
            maker = makes[-1] if makes else "another layer"
            raise UnlearnError(
                f"model: {head or 'it'} is the last linear layer defined, but {maker} makes the logits; "
                "define the layer that makes them last to forget whole classes"
            )
        outputs = model.get_submodule(head).out_features
        if outputs != num_classes:
            raise UnlearnError(f"model: {head} has {outputs} outputs for {num_classes} classes; they must be as many")


def probe(model: nn.Module, images: Tensor, num_classes: int | None = None) -> Probe:
    """Runs two images through a model, which is left as it was.

    **Arguments:** `images`: float32 `(2, channels, height, width)`, on the model's device. `num_classes`: how many logits
    there must be; None takes any number.

    **Raises:** `UnlearnError`, one line: weights that are not finite, a model that cannot run, or one that returns anything
    but a finite tensor of shape `(2, classes)`.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UnlearnError(f"model: {name} holds NaN or infinity; give weights of a training that went well")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _LAYERS)}
    runs: dict[str, int] = {}
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    hooks = [module.register_forward_hook(_count(runs, inside)) for module, inside in _watched(model, layers)]
    try:
        model.eval()
        for parameter, _ in flags:
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            logits = _checked(_forward(model, images), len(images), num_classes)
            weights = [layer.weight for layer in layers.values()]
            gradients: list[Any] = [None] * len(weights)
            if logits.requires_grad and weights:
                gradients = list(torch.autograd.grad(logits.sum(), weights, allow_unused=True))
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode
    unused = tuple(name for name, gradient in zip(layers, gradients, strict=True) if gradient is None)
    executed = tuple(sorted(runs, key=runs.__getitem__))
    left_alone = tuple(name for name, module in model.named_modules() if isinstance(module, _LEFT_ALONE))
    return Probe(tuple(layers), executed, unused, left_alone)


def probe_with(model: nn.Module, loader: Loader, num_classes: int | None = None) -> Probe | None:
    """Runs the first two images of a loader through a model, see `probe`. None for a loader that can be read only once.

    **Raises:** `UnlearnError` also for an empty loader.
    """
    normalise: Any = getattr(loader, "normalise", None)
    images: Any = getattr(loader, "images", None)
    if normalise is not None and images is not None:  # an `ArrayLoader`: a pass over it would count as one
        two = normalise(images[:2])
    elif isinstance(loader, Iterator):
        return None
    else:
        with torch.random.fork_rng(devices=[]):  # a shuffling loader draws from the global generator
            batch = next(iter(loader), None)
        if batch is None:
            raise UnlearnError("loader: holds no images")
        two = batch[0][:2]
    return probe(model, two.to(device_of(model)), num_classes)


def _watched(model: nn.Module, layers: Mapping[str, nn.Module]) -> list[tuple[nn.Module, list[str]]]:
    """Returns the modules whose runs count, with the layers that each run executes."""
    found = [(module, [name]) for name, module in layers.items()]
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):  # it uses its last layer's weight without calling it
            found.append((module, [f"{name}.out_proj" if name else "out_proj"]))
    return found


def _count(runs: dict[str, int], names: list[str]) -> Callable[..., None]:
    def hook(module: nn.Module, given: Any, result: Any) -> None:
        for name in names:
            runs[name] = max(runs.values(), default=0) + 1

    return hook


def _forward(model: nn.Module, images: Tensor) -> Any:
    try:
        return model(images)
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
    """Returns the logits; raises `UnlearnError` where they are no tensor of shape `(count, classes)`."""
    classes = "classes" if num_classes is None else str(num_classes)
    if not isinstance(found, Tensor):
        kind = type(found).__name__
        how = "a wrapper that returns"
        if isinstance(found, Mapping) and "logits" in found:
            hint = f"give {how} its 'logits'"
        elif hasattr(found, "logits"):
            hint = f"give {how} its .logits"
        elif isinstance(found, tuple | list):
            hint = f"give {how} the part that holds them"
        else:
            hint = f"give {how} them"
        raise UnlearnError(f"model: forward returns a {kind}; logits (n, {classes}) are needed: {hint}")
    if found.ndim != 2 or found.shape[0] != count or (num_classes is not None and found.shape[1] != num_classes):
        raise UnlearnError(
            f"model: {count} images come out as {tuple(found.shape)}; logits ({count}, {classes}) are needed"
        )
    if not found.is_floating_point():
        raise UnlearnError(f"model: forward returns {found.dtype}; logits of a floating-point type are needed")
    if not bool(torch.isfinite(found).all()):
        raise UnlearnError("model: its logits of two images hold NaN or infinity")
    return found
