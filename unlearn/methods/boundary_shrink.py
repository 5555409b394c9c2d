"""Boundary Shrink: the forget set is pushed over the nearest border between classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.errors import MethodDidNothing
from .base import Card, Preset, Presets, Range, Ranges
from .kit import GradientMethod, Task
from .kit.adversary import Pixels, fgsm


@dataclass(frozen=True, kw_only=True)
class BoundaryShrink(GradientMethod):
    """Trains CE(f(x), ŷ) on D_f, where ŷ is what the model as given takes an adversarial x' for.

    x' is one step of size ε up the loss in pixel space, rounded to 8 bits. Samples with ŷ = y are
    left out and counted.

    **Arguments**, beside those of `GradientMethod`: `epsilon` (ε), in pixels of [0, 1].
    """

    name: ClassVar[str] = "boundary_shrink"
    version: ClassVar[int] = 2
    access: ClassVar[str] = "forget"
    card: ClassVar[Card] = Card(
        "BoundaryShrink",
        "ŷ = argmax f₀(x + ε·sign ∇ₓCE); min CE(f(x), ŷ) on D_f",
        "Chen, Gao, Liu, Peng, Wang, Boundary Unlearning, CVPR 2023",
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
    ranges: ClassVar[Ranges] = {"lr": Range(1e-8, 1e-2, log=True), "epsilon": Range(0.02, 0.3)}

    lr: float = 1e-5
    weight_decay: float = 0.0
    batch_size: int = 64
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
