"""DELETE: the model learns its own answers to the forget set, with the true class struck out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Card, Preset, Presets, Range, Ranges
from .kit import Batch, GradientMethod, Network, Task, divergence

STRUCK = -1e10  # a logit whose probability is 0 in float32


@dataclass(frozen=True, kw_only=True)
class DELETE(GradientMethod):
    """min KL(q ‖ p) on D_f, where q is the softmax of the first model's logits without the label's.

    The fields are those of `GradientMethod`.
    """

    name: ClassVar[str] = "delete"
    access: ClassVar[str] = "forget"
    card: ClassVar[Card] = Card(
        "DELETE",
        "min KL(softmax(z₀ with z₀[y] := −∞) ‖ softmax(z)) on D_f",
        "Zhou et al., Decoupled Distillation to Erase, CVPR 2025",
        "20 passes over the forget set, with a forward pass of the teacher each",
    )
    presets: ClassVar[Presets] = {
        "delete-cifar10": Preset(
            {"lr": 1e-3, "epochs": 20, "batch_size": 128, "momentum": 0.9, "weight_decay": 0.0},
            "DELETE scripts.sh, class-wise, CIFAR-10, ResNet-18",
        )
    }
    ranges: ClassVar[Ranges] = {"lr": Range(1e-5, 1e-2, log=True)}

    lr: float = 1e-3
    weight_decay: float = 0.0
    epochs: int = 20

    def run(self, task: Task) -> None:
        """Distils on the forget set."""
        teacher = task.teacher()

        def objective(student: Network, batch: Batch) -> Tensor:
            wanted = teacher(batch.images).scatter(1, batch.labels[:, None], STRUCK)
            return divergence(wanted, student(batch.images))

        self.fit(task, task.forget.batches, objective)
