"""Gradient ascent on the forget set: training run backwards, with no retain data to hold the model
together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Card, Choice, Preset, Presets, Range, Ranges
from .kit import Batch, GradientMethod, Network, Task, cross_entropy


@dataclass(frozen=True, kw_only=True)
class GradAscent(GradientMethod):
    """θ ← θ + η·∇CE(D_f). Beside the fields of `GradientMethod`: `clip`, the largest norm of the
    gradient, or None."""

    name: ClassVar[str] = "grad_ascent"
    access: ClassVar[str] = "forget"
    card: ClassVar[Card] = Card(
        "GradAscent",
        "θ ← θ + η·∇CE(D_f)",
        "Thudi, Deza, Chandrasekaran, Papernot, Unrolling SGD, EuroS&P 2022; Graves et al., AAAI 2021",
        "5 passes over the forget set",
        (
            "Normalisation is frozen by default; released code does it either way, and train mode rewrites statistics.",
            "The loss is not clamped. One public version clamps −CE at 0, so that its gradient is always 0.",
        ),
    )
    presets: ClassVar[Presets] = {
        "grad-ascent-salun": Preset(
            {"lr": 5e-4, "epochs": 5, "batch_size": 256, "batch_norm": "train"},
            "Unlearn-Saliency, issue 8: 5e-4 to 1e-3, 10 % at random",
        ),
        "grad-ascent-k1nght": Preset(
            {"lr": 2e-4, "epochs": 10, "clip": 0.1, "schedule": "cosine"}, "Apollo fork of K1nght, CIFAR-10, ResNet-18"
        ),
        "grad-ascent-rum": Preset({"lr": 1e-4, "epochs": 5}, "RUM README, CIFAR-10"),
        "grad-ascent-delete": Preset(
            {"lr": 1e-5, "epochs": 20, "weight_decay": 0.0}, "DELETE scripts.sh, class-wise CIFAR-10"
        ),
    }
    ranges: ClassVar[Ranges] = {
        "lr": Range(1e-6, 1e-2, log=True),
        "epochs": Choice((1, 3, 5, 10)),
        "clip": Choice((None, 0.1, 1.0)),
    }

    lr: float = 5e-4
    epochs: int = 5
    batch_norm: str = "frozen"
    clip: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("clip", self.clip is None or self.clip > 0, "a number above 0, or null")

    def run(self, task: Task) -> None:
        """Climbs the loss of the forget set."""

        def objective(network: Network, batch: Batch) -> Tensor:
            return -cross_entropy(network(batch.images), batch.labels)

        self.fit(task, task.forget.batches, objective, clip=self.clip)
