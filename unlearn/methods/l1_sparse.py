"""L1-sparse: fine-tuning on the retain set with a penalty on the size of the weights that fades
away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Card, Choice, Preset, Presets, Range, Ranges
from .kit import Batch, GradientMethod, Network, Task, cross_entropy


@dataclass(frozen=True, kw_only=True)
class L1Sparse(GradientMethod):
    """Minimises CE(D_r) + γ_e·‖θ‖₁, with γ_e = γ·(1 − e/(E − E₀)) in epochs e < E − E₀ and 0 in the
    last E₀.

    All parameters count, those of normalisation and biases too.

    **Arguments**, beside those of `GradientMethod`: `gamma` (γ); `no_l1_epochs` (E₀).
    """

    name: ClassVar[str] = "l1_sparse"
    access: ClassVar[str] = "retain"
    card: ClassVar[Card] = Card(
        "L1Sparse",
        "min CE(D_r) + γ_e·‖θ‖₁, γ_e falling from γ",
        "Jia, Liu, Ram, Yao, Liu, Liu, Sharma, Liu, Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023",
        "10 passes over the retain set",
        (
            "The released argument default γ = 0.2 zeroes the model; ours is 5e-4, within the range people search.",
            "As released, γ_e is γ/E in the last epoch, not 0, where E₀ = 0.",
        ),
    )
    presets: ClassVar[Presets] = {
        "l1-sparse-salun": Preset({"lr": 0.01, "epochs": 10, "gamma": 5e-4}, "Unlearn-Saliency FT.py; γ swept there"),
    }
    ranges: ClassVar[Ranges] = {
        "lr": Range(1e-3, 0.1, log=True),
        "gamma": Range(1e-5, 1e-3, log=True),
        "epochs": Choice((2, 5, 10, 20)),
        "no_l1_epochs": Choice((0, 1, 2)),
    }

    gamma: float = 5e-4
    no_l1_epochs: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("gamma", self.gamma >= 0, "0 or more")
        self.require("no_l1_epochs", 0 <= self.no_l1_epochs <= self.epochs, f"0 to epochs ({self.epochs})")

    def penalty(self, epoch: int) -> float:
        """γ_e in pass `epoch` = 0, 1, …"""
        fading = self.epochs - self.no_l1_epochs
        return self.gamma * (1 - epoch / fading) if epoch < fading else 0.0

    def run(self, task: Task) -> None:
        """Trains on the retain set with the penalty."""

        def items(epoch: int) -> Iterator[tuple[Batch, float]]:
            for batch in task.retain.batches(epoch):
                yield batch, self.penalty(epoch)

        def objective(network: Network, item: tuple[Batch, float]) -> Tensor:
            batch, penalty = item
            loss = cross_entropy(network(batch.images), batch.labels)
            if penalty:
                sizes = [weight.abs().sum() for weight in task.named_parameters().values()]
                loss = loss + penalty * torch.stack(sizes).sum()
            return loss

        self.fit(task, items, objective)
