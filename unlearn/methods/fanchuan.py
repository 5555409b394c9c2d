"""Fanchuan: the first place of the NeurIPS 2023 unlearning competition."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from .base import Card, Choice, Preset, Presets, Range, Ranges
from .kit import Batch, GradientMethod, Network, Task


@dataclass(frozen=True, kw_only=True)
class Fanchuan(GradientMethod):
    """First KL(uniform ‖ p) on D_f, then `rounds` times a contrast of D_f with D_r and a pass of CE
    on D_r.

    The contrast is the mean of −log softmax over the retain batch of z_f·z_rᵀ/T. Its mean over all
    pairs is least where a forget sample is equally like every retain sample. z_r takes no gradient.

    **Arguments**, beside those of `GradientMethod`, whose `lr` is that of the retain passes at a
    batch of 64:

    - `uniform_lr`, `contrast_lr` (falling as a cosine to 1e-6 over all rounds), `temperature` (T),
        `rounds`.
    """

    name: ClassVar[str] = "fanchuan"
    version: ClassVar[int] = 2
    access: ClassVar[str] = "retain"
    card: ClassVar[Card] = Card(
        "Fanchuan",
        "min KL(u ‖ p) on D_f; then 8 × {min −mean log softmax(z_f·z_rᵀ/T); min CE(D_r)}",
        "First place, NeurIPS 2023 Machine Unlearning Challenge; Triantafillou et al., 2406.09073",
        "1 + 8 passes over the forget set and 8 over the retain set",
        (
            "Read in a public adaptation of the authors' code, which gives the rates, T, the decay and the order.",
            "The cosine falls by the round; the authors' falls by the step.",
        ),
    )
    presets: ClassVar[Presets] = {
        "fanchuan-deepunlearn": Preset({"batch_size": 256, "rounds": 8}, "DeepUnlearn munl/unlearning/kgltop2 and kin"),
    }
    ranges: ClassVar[Ranges] = {
        "contrast_lr": Range(1e-5, 1e-2, log=True),
        "lr": Range(1e-4, 1e-2, log=True),
        "uniform_lr": Range(1e-4, 1e-2, log=True),
        "temperature": Range(0.5, 4.0, log=True),
        "rounds": Choice((2, 4, 8)),
    }

    lr: float = 1e-3
    weight_decay: float = 1e-2
    epochs: int = 1
    batch_size: int = 256
    uniform_lr: float = 5e-3
    contrast_lr: float = 3e-4
    temperature: float = 1.15
    rounds: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("rounds", self.rounds >= 0, "0 or more")
        self.require("temperature", self.temperature > 0, "a number above 0")

    def passes(self) -> int:
        """Passes over either set."""
        return 1 + self.rounds * (1 + self.epochs)

    def run(self, task: Task) -> None:
        """Flattens, contrasts and repairs."""

        def flatten(network: Network, batch: Batch) -> Tensor:
            return uniform_divergence(network(batch.images))

        def contrast(network: Network, pair: tuple[Batch, Batch]) -> Tensor:
            kept, forgotten = pair
            return contrast_loss(network(forgotten.images), network(kept.images), self.temperature)

        self.fit(task, task.forget.batches, flatten, phase=self.phase(lr=self.uniform_lr, weight_decay=0.0, epochs=1))
        for number in range(self.rounds):
            share = 0.5 * (1 + math.cos(math.pi * number / self.rounds))
            rate = 1e-6 + (self.contrast_lr - 1e-6) * share

            def pairs(_: int, number: int = number) -> Iterator[tuple[Batch, Batch]]:
                # As long as the forget set is: zip ends with the shorter of the two.
                return zip(task.retain.rounds(number), task.forget.batches(number), strict=False)

            def batches(epoch: int, number: int = number) -> Iterator[Batch]:
                return task.retain.batches(number * max(1, self.epochs) + epoch)

            self.fit(task, pairs, contrast, phase=self.phase(lr=rate, weight_decay=0.0, epochs=1))
            self.fit(task, batches, phase=self.phase(lr=self.lr * self.batch_size / 64))


def uniform_divergence(logits: Tensor) -> Tensor:
    """KL(uniform ‖ p), the mean over samples."""
    classes = logits.shape[1]
    return -F.log_softmax(logits, dim=1).mean() - math.log(classes)


def contrast_loss(forgotten: Tensor, kept: Tensor, temperature: float) -> Tensor:
    """The mean over pairs of −log softmax over the retain batch of z_f·z_rᵀ/T; z_r takes no
    gradient."""
    return -F.log_softmax(forgotten @ kept.detach().T / temperature, dim=1).mean()
