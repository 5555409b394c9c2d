"""Kookmin (MSG): the second place of the NeurIPS 2023 unlearning competition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from .base import Card, Preset, Presets, Range, Ranges
from .kit import Batch, GradientMethod, Task, per_sample_cross_entropy
from .kit.mask import smallest, summed_gradient


@dataclass(frozen=True, kw_only=True)
class Kookmin(GradientMethod):
    """Draws anew the share of each convolution's weights on which D_f and D_r agree least, then
    trains on D_r.

    g = Σ ∇(CE_r − CE_f) over D_f and as many retain samples, none of them augmented. Where D_r is
    smaller, its sum is scaled up. In each convolution the weights with
    the smallest |g| are drawn anew (Kaiming, fan out), and the gradient of the others is multiplied
    by `brake`.

    **Arguments**, beside those of `GradientMethod`: `redrawn`, the share of weights drawn anew;
    `brake`.
    """

    name: ClassVar[str] = "kookmin"
    version: ClassVar[int] = 2
    access: ClassVar[str] = "retain"
    card: ClassVar[Card] = Card(
        "Kookmin (MSG)",
        "re-draw the 30 % smallest |Σ∇(CE_r − CE_f)| of each convolution; min CE(D_r), the rest at a tenth of the rate",
        "Second place, NeurIPS 2023 Machine Unlearning Challenge; Cadet et al., DeepUnlearn, 2410.01276",
        "one pass of gradients over two sets of the forget set's size, then 5 passes over the retain set",
        (
            "Scores are taken in evaluation mode, which the description leaves open.",
            "The original was not to be had: written from DeepUnlearn's description. The result is an ordinary model.",
        ),
    )
    presets: ClassVar[Presets] = {
        "kookmin-deepunlearn": Preset({"lr": 1e-3, "epochs": 5}, "DeepUnlearn munl/unlearning/kgltop3"),
    }
    ranges: ClassVar[Ranges] = {
        "lr": Range(1e-4, 0.1, log=True),
        "redrawn": Range(0.05, 0.6),
        "brake": Range(0.01, 1.0, log=True),
    }

    lr: float = 1e-3
    epochs: int = 5
    schedule: str = "triangle"
    redrawn: float = 0.3
    brake: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("redrawn", 0 <= self.redrawn <= 1, "a number from 0 to 1")

    def run(self, task: Task) -> None:
        """Draws anew and repairs."""
        chosen = self.chosen(task)
        with torch.no_grad():
            for name, where in chosen.items():
                weight = task.model.get_parameter(name)
                drawn = torch.empty_like(weight)
                nn.init.kaiming_normal_(drawn, mode="fan_out", nonlinearity="relu")
                weight.copy_(torch.where(where, drawn, weight))

        def adjust(_: Batch) -> None:
            for name, where in chosen.items():
                gradient = task.model.get_parameter(name).grad
                if gradient is not None:
                    gradient.mul_(torch.where(where, 1.0, self.brake))

        self.fit(task, task.retain.batches, adjust=adjust)

    def chosen(self, task: Task) -> dict[str, Tensor]:
        """Where each convolution's weight is drawn anew: exactly round(redrawn·n) of them."""
        names = [f"{name}.weight" for name in task.convolutions()]
        taken = task.retain.first(task.forget.size)
        scale = task.forget.size / sum(len(labels) for _, labels in taken)
        kept = summed_gradient(task.original, taken, per_sample_cross_entropy)
        gone = summed_gradient(task.original, task.forget.plain(), per_sample_cross_entropy)
        return {name: smallest((scale * kept[name] - gone[name]).abs(), self.redrawn) for name in names if name in kept}
