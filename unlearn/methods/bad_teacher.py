"""Bad Teacher: the student learns chance on the forget set, and its own answers elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..core.seeds import seeded
from ..models.reset import reset
from .base import Card, Choice, Needs, Preset, Range
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
    presets: ClassVar[Mapping[str, Preset]] = {
        "bad-teacher-ssd": Preset(
            {"optimizer": "adam", "lr": 1e-4, "epochs": 1, "batch_size": 256, "reduction": "mean"},
            "if-loops/selective-synaptic-dampening, blindspot",
        ),
        "bad-teacher-k1nght": Preset(
            {"optimizer": "sgd", "lr": 0.02, "epochs": 10, "retain_share": 1.0}, "Apollo fork of K1nght, CIFAR-10"
        ),
    }
    ranges: ClassVar[Mapping[str, Range | Choice]] = {
        "lr": Range(1e-5, 1e-2, log=True),
        "epochs": Choice((1, 2, 5, 10)),
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
        if not 0 < self.retain_share <= 1:
            raise ValueError(f"retain_share: {self.retain_share!r} is not allowed; give a share above 0, up to 1")
        if not self.temperature > 0:
            raise ValueError(f"temperature: {self.temperature!r} is not allowed; give a number above 0")
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction: {self.reduction!r} is not allowed; allowed are {', '.join(REDUCTIONS)}")

    def needs(self) -> Needs:
        """The share of the retain set."""
        return replace(super().needs(), share=self.retain_share)

    def run(self, task: Task) -> None:
        """Distils from both teachers."""
        good, fresh = task.teacher(), copy.deepcopy(task.original)
        with seeded(self.seed):
            reset(fresh.modules())
        bad = task.teacher(fresh)

        def items(epoch: int) -> Iterator[Batch]:
            return mixed(task.forget, task.retain, epoch)

        def objective(student: Network, batch: Batch) -> Tensor:
            wanted = torch.where(batch.forgotten[:, None], bad(batch.images), good(batch.images))
            return divergence(wanted, student(batch.images), self.temperature, self.reduction)

        self.fit(task, items, objective)
