"""JIT unlearning: the network is made smooth around the forget set, by its own outputs alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Card, Choice, Preset, Presets, Range, Ranges
from .kit import Batch, GradientMethod, Network, Task


@dataclass(frozen=True, kw_only=True)
class JIT(GradientMethod):
    """Minimises (1/n)·Σ_k Σ_x ‖f(x) − sg f(x + ε_k)‖₂ / ‖ε_k‖₂ on D_f, with ε ~ N(0, σ²); sg takes
    no gradient.

    x + ε is clamped to the range of the batch; ‖ε_k‖ is that of the clamped step. Labels are never
    read. Dropout is off, so that both outputs are of one network.

    **Arguments**, beside those of `GradientMethod`: `sigma` (σ), in units of normalised images;
    `draws` (n).
    """

    name: ClassVar[str] = "jit"
    version: ClassVar[int] = 2
    access: ClassVar[str] = "forget"
    card: ClassVar[Card] = Card(
        "JIT",
        "min (1/n)·Σ_k Σ_x ‖f(x) − sg f(x + ε_k)‖ / ‖ε_k‖ on D_f",
        "Foster, Fogarty, Schoepf, Dugue, Öztireli, Brintrup, Zero-Shot Machine Unlearning at Scale, 2402.01401",
        "1 pass over the forget set, with n + 1 forward passes",
        (
            "Each step has a gradient of its own. Released code zeroes another optimiser's, so that gradients add up.",
            "Dropout is off: with it the ratio is that of two networks. Released code leaves the mode to the caller.",
            "The loss is a sum over the batch, as released: lr depends on the batch size.",
        ),
    )
    presets: ClassVar[Presets] = {
        "jit-vgg16": Preset({"lr": 3e-4, "sigma": 0.01, "draws": 25}, "jwf40, VGG16, samples at random"),
        "jit-vit": Preset({"lr": 0.1, "sigma": 0.5, "draws": 25}, "jwf40, ViT, samples at random"),
        "jit-supreme": Preset({"lr": 1e-3, "sigma": 0.1, "draws": 10}, "SUPREME"),
    }
    ranges: ClassVar[Ranges] = {
        "lr": Range(1e-5, 1e-1, log=True),
        "sigma": Range(0.01, 1.0, log=True),
        "draws": Choice((5, 10, 25)),
    }
    examples: ClassVar[Mapping[str, Any]] = {"lr": 1e-4}

    lr: float = 3e-4
    momentum: float = 0.0
    weight_decay: float = 0.0
    epochs: int = 1
    batch_norm: str = "frozen"
    sigma: float = 0.01
    draws: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("sigma", self.sigma > 0, "a number above 0")
        self.require("draws", self.draws >= 1, "1 or more")

    def run(self, task: Task) -> None:
        """Makes one pass."""

        def objective(network: Network, batch: Batch) -> Tensor:
            images, outputs = batch.images, network(batch.images)
            ratios = []
            for _ in range(self.draws):
                moved = (images + self.sigma * torch.randn_like(images)).clamp(images.min(), images.max())
                with torch.no_grad():
                    elsewhere = network(moved)
                step = (moved - images).flatten(1).norm(dim=1)
                ratios.append(((outputs - elsewhere).norm(dim=1) / step).sum())
            return torch.stack(ratios).mean()

        self.fit(task, task.forget.batches, objective, dropout=False)
