"""Models by name: the paper's three, torchvision's classifiers, and factories of the user's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..core._torchvision import load_torchvision
from ..core.errors import did_you_mean
from ..core.registry import Registry
from ..core.seeds import check_seed, seeded
from .all_cnn import all_cnn
from .resnet18 import resnet18
from .small_vgg import small_vgg

# A model is a function of `num_classes`, `in_channels` and `image_size`, and of `width` where it
# has one.
MODELS: Registry[Callable[..., nn.Module]] = Registry(
    "unlearn.models",
    {
        "small_vgg": "unlearn.models.small_vgg:small_vgg",
        "all_cnn": "unlearn.models.all_cnn:all_cnn",
        "resnet18": "unlearn.models.resnet18:resnet18",
    },
)

__all__ = ["MODELS", "all_cnn", "build_model", "build_shapes", "resnet18", "small_vgg", "torchvision_names"]


def build_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    width: float = 1.0,
    seed: int = 0,
    allow_factory: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """A freshly initialised classifier, on the CPU. Its weights depend on the arguments and `seed`
    only.

    **Arguments:**

    - `name`: a name in `MODELS`, the name of a torchvision classifier, or `package.module:factory`.
    - `num_classes`, `in_channels`, `image_size`: of the data.
    - `width`: scales the channels of the models in `MODELS`; others have none.
    - `seed`: of the initialisation.
    - `allow_factory`: permits `package.module:factory`, which imports and runs code of the user's
        own. It is called with `num_classes`, `in_channels`, `image_size`, `kwargs` and, where it is
        not 1, `width`.
    - `kwargs`: further arguments of the model.

    Raises `ValueError` for unknown names, factories without permission and arguments that the model
    does not take.
    """
    check_seed(seed, "model.seed")
    shape: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    if ":" in name:
        build = _factory(name, allow_factory)
        options = {**shape, **kwargs} if width == 1 else {**shape, "width": width, **kwargs}
    elif name in MODELS:
        build = MODELS[name]
        # A model of another package may have no width; one that is not asked for is not handed
        # over.
        options = {**shape, **kwargs} if width == 1 else {**shape, "width": width, **kwargs}
    else:
        if width != 1:
            raise ValueError(f"model.width: {width!r} is not allowed for {name}; only {', '.join(MODELS)} have a width")
        build, options = _torchvision_builder(name), {**shape, **kwargs}
    with seeded(seed):
        try:
            model = build(**options)
        except TypeError as error:
            raise ValueError(f"model: {name} cannot be built with {', '.join(sorted(options))} ({error})") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"model.name: {name} returned a {type(model).__name__}; it must return a torch.nn.Module")
    return model


class _WithoutDrawing(TorchFunctionMode):
    """Draws no normal numbers: to draw them nowhere, torch imports its compiler for two seconds."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if function is Tensor.normal_ else function(*args, **(kwargs or {}))


def build_shapes(name: str, **options: Any) -> nn.Module:
    """The model of `build_model(name, **options)` on the device "meta": shapes without weights."""
    with torch.device("meta"), _WithoutDrawing():
        return build_model(name, **options)


def _factory(name: str, allowed: bool) -> Callable[..., nn.Module]:
    if not allowed:
        raise ValueError(
            f"model.name: {name!r} would import and run code of your own; permit it with --allow-code on the "
            "command line or allow_factory=True in Python"
        )
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"model.name: {name!r} cannot be imported ({error}); give package.module:factory") from None
    if not callable(found):
        raise ValueError(f"model.name: {name!r} is no function; give package.module:factory")
    return found


def torchvision_names() -> list[str]:
    """The names of torchvision's classifiers; none where torchvision is not installed."""
    try:
        models = load_torchvision().models
    except ImportError:
        return []
    return list(models.list_models(module=models))


def _torchvision_builder(name: str) -> Callable[..., nn.Module]:
    known = torchvision_names()
    if name not in known:
        hint = did_you_mean(name, [*MODELS, *known])
        raise ValueError(
            f"model.name: {name!r} is not allowed; allowed are {', '.join(MODELS)}, torchvision's classifiers "
            f"and package.module:factory{hint}"
        )

    models = load_torchvision().models

    def build(*, num_classes: int, in_channels: int, image_size: int, **kwargs: Any) -> nn.Module:
        if name.startswith("vit_"):
            kwargs.setdefault("image_size", image_size)
        if name in ("googlenet", "inception_v3"):
            # auxiliary heads would return tuples
            kwargs = {"aux_logits": False, "init_weights": True, **kwargs}
        model = models.get_model(name, weights=None, num_classes=num_classes, **kwargs)
        if in_channels != 3:
            _replace_first_convolution(name, model, in_channels)
        return model

    return build


def _replace_first_convolution(name: str, model: nn.Module, in_channels: int) -> None:
    """Gives a model made for colour images a first convolution for `in_channels` channels, freshly
    initialised.
    """
    for parent in model.modules():
        for key, conv in parent.named_children():
            if isinstance(conv, nn.Conv2d) and conv.in_channels == 3 and conv.groups == 1:
                options: dict[str, Any] = {
                    field: getattr(conv, field)
                    for field in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
                }
                bias = conv.bias is not None
                setattr(parent, key, nn.Conv2d(in_channels, conv.out_channels, bias=bias, **options))
                return
    raise ValueError(f"model.name: {name} has no convolution over 3 channels to replace; give colour images")
