"""Bad Teacher: the student learns chance on the forget set, and its own answers elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Card, Choice, Preset, Presets, Range, Ranges
from .kit import Batch, GradientMethod, Network, Task, divergence, mixed
from .kit.losses import REDUCTIONS


@dataclass(frozen=True, kw_only=True)
class BadTeacher(GradientMethod):
    """min KL(target ‖ student) on a shuffled mix of D_f and a share of D_r.

    The target is a freshly initialised model's answer on D_f and the first model's on D_r.

    **Arguments**, beside those of `GradientMethod`:

    - `retain_share`: the share of the retain set. `temperature` of both softmaxes.
    - `reduction`: `batchmean`, or `mean` as released, which also divides by the number of classes.
    """

    name: ClassVar[str] = "bad_teacher"
    access: ClassVar[str] = "retain_share"
    card: ClassVar[Card] = Card(
        "Bad Teacher",
        "min KL(p_bad ‖ p) on D_f and KL(p₀ ‖ p) on 30 % of D_r",
        "Chundawat, Tarun, Mandal, Kankanhalli, Can Bad Teaching Induce Forgetting?, AAAI 2023",
        "1 pass over the forget set and 30 % of the retain set, with two teachers",
        (
            "The divergence is the mean over samples; the release also divides by the number of classes.",
            "The student is in training mode; the release leaves its mode to the caller.",
        ),
    )
    presets: ClassVar[Presets] = {
        "bad-teacher-ssd": Preset(
            {"optimizer": "adam", "lr": 1e-4, "epochs": 1, "batch_size": 256, "reduction": "mean"},
            "if-loops/selective-synaptic-dampening, blindspot",
        ),
        "bad-teacher-k1nght": Preset(
            {"optimizer": "sgd", "lr": 0.02, "epochs": 10, "retain_share": 1.0}, "Apollo fork of K1nght, CIFAR-10"
        ),
    }
    ranges: ClassVar[Ranges] = {
        "lr": Range(1e-5, 1e-2, log=True),
        "temperature": Choice((1.0, 2.0, 4.0)),
        "reduction": Choice(REDUCTIONS),
    }

    optimizer: str = "adam"
    lr: float = 1e-4
    weight_decay: float = 0.0
    epochs: int = 1
    batch_size: int = 256
    retain_share: float = 0.3
    temperature: float = 1.0
    reduction: str = "batchmean"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("temperature", self.temperature > 0, "a number above 0")
        self.one_of("reduction", REDUCTIONS)

    def run(self, task: Task) -> None:
        """Distils from both teachers."""
        good, bad = task.teacher(), task.fresh_teacher()

        def objective(student: Network, batch: Batch) -> Tensor:
            wanted = torch.where(batch.forgotten[:, None], bad(batch.images), good(batch.images))
            return divergence(wanted, student(batch.images), self.temperature, self.reduction)

        self.fit(task, lambda epoch: mixed(task.forget, task.retain, epoch), objective)
