"""NegGrad+: descent on the retain set and ascent on the forget set in one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Card, Choice, Preset, Presets, Range, Ranges
from .kit import Batch, GradientMethod, Network, Task, cross_entropy, paired


@dataclass(frozen=True, kw_only=True)
class NegGradPlus(GradientMethod):
    """Minimises α·[CE(B_r) + (w/2)·‖θ − θ0‖²] − (1 − α)·CE(B_f).

    **Arguments**, beside those of `GradientMethod`: `alpha` (α) in [0, 1]; `anchor` (w), the pull
    to the model as given.
    """

    name: ClassVar[str] = "neggrad_plus"
    access: ClassVar[str] = "retain"
    card: ClassVar[Card] = Card(
        "NegGrad+",
        "min α·[CE(B_r) + (w/2)·‖θ − θ0‖²] − (1 − α)·CE(B_f)",
        "Kurmanji, Triantafillou, Hayes, Triantafillou, NeurIPS 2023 (as a baseline)",
        "10 passes over the retain set; the forget set goes round beside it",
    )
    presets: ClassVar[Presets] = {
        "neggrad-plus-notebook": Preset({"alpha": 0.95, "lr": 0.01, "epochs": 10}, "SCRUB notebook, DeepUnlearn"),
        "neggrad-plus-rum": Preset({"lr": 0.01, "epochs": 5}, "RUM README, CIFAR-10; α swept there"),
    }
    ranges: ClassVar[Ranges] = {
        "lr": Range(1e-4, 0.1, log=True),
        "alpha": Range(0.8, 0.999),
        "epochs": Choice((3, 5, 10)),
        "anchor": Choice((0.0, 0.1, 1.0)),
    }

    batch_norm: str = "frozen"
    alpha: float = 0.95
    anchor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("alpha", 0 <= self.alpha <= 1, "a number from 0 to 1")
        self.require("anchor", self.anchor >= 0, "0 or more")

    def run(self, task: Task) -> None:
        """Trains on pairs of batches."""
        start = {name: weight.detach().clone() for name, weight in task.named_parameters().items()}

        def objective(network: Network, pair: tuple[Batch, Batch]) -> Tensor:
            kept, forgotten = pair
            # A side that has no weight is not run: its batches must not reach batch normalisation.
            loss = kept.images.new_zeros(())
            if self.alpha > 0:
                loss = loss + self.alpha * cross_entropy(network(kept.images), kept.labels)
            if self.alpha < 1:
                loss = loss - (1 - self.alpha) * cross_entropy(network(forgotten.images), forgotten.labels)
            if self.anchor:
                weights = task.named_parameters()
                far = torch.stack([(weights[name] - first).square().sum() for name, first in start.items()]).sum()
                loss = loss + self.alpha * self.anchor / 2 * far
            return loss

        self.fit(task, lambda epoch: paired(task.retain, task.forget, epoch), objective)
