"""Boundary unlearning: the forget set is pushed over the nearest border, or into a class that is
then dropped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ..core.errors import MethodDidNothing
from ..models.classes import last_linear, with_module
from .base import Card, Preset, Presets, Range, Ranges
from .kit import GradientMethod, Task
from .kit.adversary import Pixels, fgsm

_PAPER = "Chen, Gao, Liu, Peng, Wang, Boundary Unlearning, CVPR 2023"


@dataclass(frozen=True, kw_only=True)
class _Boundary(GradientMethod):
    access: ClassVar[str] = "forget"
    ranges: ClassVar[Ranges] = {"lr": Range(1e-8, 1e-2, log=True)}

    lr: float = 1e-5
    weight_decay: float = 0.0
    batch_size: int = 64


@dataclass(frozen=True, kw_only=True)
class BoundaryShrink(_Boundary):
    """Trains CE(f(x), ŷ) on D_f, where ŷ is what the model as given takes an adversarial x' for.

    x' is one step of size ε up the loss in pixel space, rounded to 8 bits. Samples with ŷ = y are
    left out and counted.

    **Arguments**, beside those of `GradientMethod`: `epsilon` (ε), in pixels of [0, 1].
    """

    name: ClassVar[str] = "boundary_shrink"
    card: ClassVar[Card] = Card(
        "BoundaryShrink",
        "ŷ = argmax f₀(x + ε·sign ∇ₓCE); min CE(f(x), ŷ) on D_f",
        _PAPER,
        "one pass of input gradients and 10 passes over the forget set",
        (
            "Samples whose adversarial image keeps the true label are left out; released code trains to remember them.",
            "ŷ is of the image without augmentation, found once.",
        ),
    )
    presets: ClassVar[Presets] = {
        "boundary-shrink-authors": Preset({"lr": 1e-5, "epochs": 10}, "TY-LEE-KR/Boundary-Unlearning-Code"),
        "boundary-shrink-delete": Preset({"lr": 5e-5, "epochs": 20}, "DELETE scripts.sh, class-wise CIFAR-10"),
    }

    ranges: ClassVar[Ranges] = {"epsilon": Range(0.02, 0.3)}

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("epsilon", 0 <= self.epsilon <= 1, "0 to 1, in pixels of [0, 1]")

    def run(self, task: Task) -> None:
        """Finds the labels, then trains."""
        teacher, scale = task.teacher(), Pixels.of(task.forget)
        images, true = task.forget.kept
        moved = [
            fgsm(teacher, x, y, scale, self.epsilon) for x, y in zip(images.split(256), true.split(256), strict=True)
        ]
        nearest = torch.cat([teacher(x).argmax(dim=1) for x in moved])
        usable = nearest != true
        if not bool(usable.any()):
            raise MethodDidNothing("epsilon: no adversarial image changes its class; raise epsilon")
        if not bool(usable.all()):
            task.notes.append(
                f"{int((~usable).sum())} of {len(true)} samples keep their class at epsilon and are left out"
            )

        used, labels = task.forget.only(usable), nearest[usable]
        self.fit(task, lambda epoch: used.batches(epoch, labels=labels))


@dataclass(frozen=True, kw_only=True)
class BoundaryExpand(_Boundary):
    """Gives the last layer one more output, trains D_f to it, and takes it out again. Fields:
    `GradientMethod`'s."""

    name: ClassVar[str] = "boundary_expand"
    card: ClassVar[Card] = Card(
        "BoundaryExpand",
        "min CE(f₊(x), C) on D_f, where f₊ has an output C more; then drop it",
        _PAPER,
        "10 passes over the forget set",
        ("The added output is dropped. One public version keeps it, which counts answers “C” as forgotten.",),
    )
    presets: ClassVar[Presets] = {
        "boundary-expand-authors": Preset({"lr": 1e-5, "epochs": 10}, "TY-LEE-KR/Boundary-Unlearning-Code"),
        "boundary-expand-delete": Preset({"lr": 8e-4, "epochs": 20}, "DELETE scripts.sh, class-wise CIFAR-10"),
    }

    def run(self, task: Task) -> None:
        """Trains with the added output."""
        name, last = last_linear(task.model)
        mode = last.training
        task.model = with_module(task.model, name, _with_rows(last, 1))
        extra = torch.full_like(task.forget.kept[1], last.out_features)
        # accuracies mean nothing while the output is there
        monitor, task.monitor = task.monitor, {}
        self.fit(task, lambda epoch: task.forget.batches(epoch, labels=extra))
        _, grown = last_linear(task.model)
        task.model = with_module(task.model, name, _with_rows(grown, -1).train(mode))
        task.monitor = monitor


def _with_rows(linear: nn.Linear, change: int) -> nn.Linear:
    """A copy of `linear` with one output more, drawn as a new layer draws it, or one less."""
    with torch.no_grad():
        kept = min(linear.out_features, linear.out_features + change)
        made = nn.Linear(linear.in_features, linear.out_features + change, bias=linear.bias is not None)
        made = made.to(linear.weight.device, linear.weight.dtype)
        bound = 1 / math.sqrt(linear.in_features)
        made.weight.uniform_(-bound, bound)
        made.weight[:kept] = linear.weight[:kept]
        if linear.bias is not None:
            made.bias[:kept] = linear.bias[:kept]
    return made.train(linear.training)
