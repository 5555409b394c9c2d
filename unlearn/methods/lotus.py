"""LoTUS: the teacher's answers to the forget set are smoothed until they are as good as a guess."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import NothingToForget
from ..training.predict import accuracy
from .base import Card, Choice, Preset, Presets, Range, Ranges
from .kit import Batch, GradientMethod, Network, Task, mixed

_FLAT = 80.0  # of log τ, where targets are uniform to the last bit of float32
STOP = -0.01  # how far below validation accuracy the accuracy on the forget set ends the run


@dataclass(frozen=True, kw_only=True)
class LoTUS(GradientMethod):
    """min −Σ t·log p on D_f and a share of D_r, where t are Gumbel softmax samples of the teacher.

    On D_r the samples are hard. On D_f their temperature is τ = exp(α·d), set before every epoch.
    Here d is the accuracy of the student on D_f less that of the teacher on validation data. Where
    whole classes are forgotten the latter counts as 0. The run ends once d is −0.01 or less. From
    α·d = 80 on the samples on D_f are uniform, and τ grows no further.

    **Arguments**, beside those of `GradientMethod`: `alpha` (α), `retain_share`.
    """

    name: ClassVar[str] = "lotus"
    access: ClassVar[str] = "retain_share"
    uses_validation: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        "LoTUS",
        "min −Σ t·log p; t ~ Gumbel softmax(z₀, τ) on D_f, hard on D_r; τ = exp(α·(Acc_f − Acc_val))",
        "Spartalis, Semertzidis, Gavves, Daras, Large-Scale Machine Unlearning with a Taste of Uncertainty, CVPR 2025",
        "up to 10 passes over the forget set and 30 % of the retain set, with a teacher",
    )
    presets: ClassVar[Presets] = {
        "lotus-release": Preset(
            {"optimizer": "adamw", "lr": 1e-4, "weight_decay": 5e-4, "batch_size": 128, "alpha": 2.0},
            "cspartalis/LoTUS helpers/config.py",
        )
    }
    ranges: ClassVar[Ranges] = {
        "alpha": Choice((1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)),
        "lr": Range(1e-5, 1e-3, log=True),
    }

    optimizer: str = "adamw"
    lr: float = 1e-4
    alpha: float = 1.0
    retain_share: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("alpha", 0 <= self.alpha < math.inf, "a number of 0 or more")

    def temperature(self, difference: float) -> float:
        """τ for a difference of accuracies, in shares."""
        return math.exp(min(self.alpha * difference, _FLAT))

    def run(self, task: Task) -> None:
        """Distils with a temperature that follows the student."""
        teacher = task.teacher()
        unseen = 0.0 if task.forget_classes else accuracy(task.original, task.validation)
        difference = accuracy(task.model, task.forget.plain()) - unseen
        if difference <= STOP:
            raise NothingToForget(
                f"validation: the model knows the forget set no better than unseen data (accuracy {difference:+.3f})"
            )

        def items(epoch: int) -> Iterator[tuple[Batch, float]]:
            tau = self.temperature(difference)
            return ((batch, tau) for batch in mixed(task.forget, task.retain, epoch))

        def objective(student: Network, item: tuple[Batch, float]) -> Tensor:
            batch, tau = item
            soft, hard = targets(teacher(batch.images), tau)
            wanted = torch.where(batch.forgotten[:, None], soft, hard)
            return -(wanted * F.log_softmax(student(batch.images), dim=1)).sum(dim=1).mean()

        def ended(epoch: int) -> bool:
            nonlocal difference
            difference = float(task.history[-1]["forget_accuracy"]) - unseen
            return difference <= STOP

        self.fit(task, items, objective, after_epoch=ended)


def targets(logits: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Gumbel softmax samples of `logits`: soft at temperature `tau`, and hard, `(n, classes)`."""
    uniform = torch.rand_like(logits).clamp(min=torch.finfo(logits.dtype).tiny, max=1.0 - 1e-7)
    noisy = logits - torch.log(-torch.log(uniform))
    hard = torch.zeros_like(logits).scatter_(1, noisy.argmax(dim=1, keepdim=True), 1.0)
    return F.softmax(noisy / tau, dim=1), hard
