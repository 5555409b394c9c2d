"""Selective synaptic dampening:

weights that matter to the forget set more than to the rest are made smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..core.errors import MethodDidNothing
from .base import Card, Preset, Presets, Range, Ranges
from .kit import KitMethod, Task


@dataclass(frozen=True, kw_only=True)
class SSD(KitMethod):
    """Where F_f > α·F_D: θ ← θ·min(λ·F_D / F_f, 1), with F the mean of squared gradients of single
    samples.

    **Arguments:** `alpha` (α), how much more a weight must matter to the forget set; `lam` (λ), how
    far it is dampened.
    """

    name: ClassVar[str] = "ssd"
    version: ClassVar[int | None] = 2
    access: ClassVar[str] = "fisher"
    card: ClassVar[Card] = Card(
        "SSD",
        "where F_f > α·F_D: θ ← θ·min(λ·F_D/F_f, 1)",
        "Foster, Schoepf, Brintrup, Fast Machine Unlearning Without Retraining, AAAI 2024",
        "one pass of single-sample gradients over the forget set, and one over all data when training ends",
        ("Squares gradients of single samples, as the paper says; much public code squares the mean of a batch.",),
    )
    presets: ClassVar[Presets] = {
        "ssd-pins": Preset({"alpha": 50.0, "lam": 0.1}, "if-loops/selective-synaptic-dampening, PinsFaceRecognition"),
        "ssd-vit": Preset({"alpha": 25.0, "lam": 1.0}, "if-loops/selective-synaptic-dampening, ViT, sub-classes"),
    }
    ranges: ClassVar[Ranges] = {
        "alpha": Range(0.1, 100.0, log=True),
        "lam": Range(0.1, 10.0, log=True),
    }
    examples: ClassVar[Mapping[str, Any]] = {"alpha": 1.5}

    alpha: float = 10.0
    lam: float = 1.0

    def __post_init__(self) -> None:
        self.require("alpha", self.alpha > 0, "a number above 0")
        self.require("lam", self.lam > 0, "a number above 0")

    def run(self, task: Task) -> None:
        """Dampens what matters to the forget set more than to all data."""
        everything = task.fisher(self.statistic).mean
        forgotten = task.fisher_of(task.forget, self.statistic).mean
        chosen = 0
        with torch.no_grad():
            for name, weight in task.named_parameters().items():
                theirs, all_data = forgotten[name], everything[name].to(weight.device)
                strong = theirs > self.alpha * all_data
                factor = torch.where(strong, (self.lam * all_data / theirs).clamp(max=1.0), 1.0)
                weight.mul_(factor.to(weight.dtype))
                chosen += int(strong.sum())
        if not chosen:
            raise MethodDidNothing(
                f"alpha: no weight matters {self.alpha:g} times as much to the forget set as to all data; lower alpha"
            )
        task.history.append({"epoch": 1, "dampened_weights": chosen})
