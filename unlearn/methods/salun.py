"""SalUn: random labels, on the weights that matter most to the forget set alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Card, Preset, Presets, Range, Ranges
from .kit import Task, per_sample_cross_entropy
from .kit.mask import largest, summed_gradient
from .random_label import RandomLabel


@dataclass(frozen=True, kw_only=True)
class SalUn(RandomLabel):
    """RandomLabel on the ⌊ρ·P⌋ weights with the largest |Σ_{x ∈ D_f} ∂CE/∂θ| of the model as given.

    Other weights keep their bits: neither momentum nor weight decay reaches them. Beside the fields
    of `RandomLabel`: `ratio` (ρ) in (0, 1].
    """

    name: ClassVar[str] = "salun"
    version: ClassVar[int] = 2
    card: ClassVar[Card] = Card(
        "SalUn",
        "m = top ρ of |Σ_{D_f} ∇CE|; RandomLabel on m·θ",
        "Fan, Liu, Zhang, Wei, Wong, Liu, SalUn, ICLR 2024",
        "one pass of gradients over the forget set, then 10 passes over the forget and the retain set",
        (
            "The gradient is summed over samples. Released code sums means of batches, which weighs a short last batch more.",
        ),
    )
    presets: ClassVar[Presets] = {
        "salun-cifar10": Preset({"lr": 0.013, "epochs": 10, "ratio": 0.5}, "Unlearn-Saliency README, 10 % at random"),
        "salun-k1nght": Preset(
            {"lr": 7e-3, "epochs": 10, "ratio": 0.2, "schedule": "cosine"}, "Apollo fork of K1nght, CIFAR-10, ResNet-18"
        ),
        "salun-rum": Preset({"lr": 0.1, "epochs": 10}, "RUM README, CIFAR-10"),
    }
    ranges: ClassVar[Ranges] = {"ratio": Range(0.1, 1.0)}

    ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("ratio", 0 < self.ratio <= 1, "a number above 0, at most 1")

    def mask(self, task: Task) -> Mapping[str, Tensor]:
        """1 where a weight is among the most salient, else 0."""
        gradient = summed_gradient(task.original, task.forget.plain(), per_sample_cross_entropy)
        return largest({name: total.abs() for name, total in gradient.items()}, self.ratio)
