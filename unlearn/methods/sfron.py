"""SFRon: ascent on the forget set where it matters more than the rest, between steps of descent on
the retain set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .base import Card, Choice, Preset, Presets, Range, Ranges
from .kit import Batch, GradientMethod, Network, Task, cross_entropy, per_sample_cross_entropy


@dataclass(frozen=True, kw_only=True)
class SFRon(GradientMethod):
    """Every `every` steps: max α_t·Σ w_i·ℓ_i on B_f, on the mask [F_f/F_r ≥ τ]. Every step: min
    CE(B_r).

    w_i ∝ ℓ_i^−λ sums to 1 over the batch and takes no gradient; α_t = α·½·(1 + cos(π·t/T)).

    **Arguments**, beside those of `GradientMethod`:

    - `iterations` (T): steps of descent; they are divided among `epochs` passes, by which the rate
        falls, so that each has one at the least.
    - `every`, `alpha` (α), `lam` (λ), `threshold` (τ) and `clip`, the largest norm of the masked
        ascent gradient.
    - `beta`: after each step slow ← (1 − β)·slow + β·θ, and the result is slow. 1 keeps no average.
    """

    name: ClassVar[str] = "sfron"
    version: ClassVar[int] = 2
    access: ClassVar[str] = "retain"
    card: ClassVar[Card] = Card(
        "SFRon",
        "m = [F_f/F_r ≥ τ]; every k steps max α_t·Σ w_i·ℓ_i on m; every step min CE(B_r)",
        "Huang, Cheng, Zheng, Wang, He, Li, Huang, Unified Gradient-Based Machine Unlearning, NeurIPS 2024",
        "one pass of single-sample gradients over both sets, then 1,500 steps",
        (
            "The mask is found once, before the first step, as released.",
            "F is of single samples; released code squares means of batches.",
            "The average is off by default: in the released code β = 1, which makes it do nothing.",
            "The rate falls by the pass, not by the step.",
            "As released, one optimiser makes both steps: its momentum and decay move weights off the mask too.",
        ),
    )
    presets: ClassVar[Presets] = {
        "sfron-k1nght": Preset(
            {"lr": 0.01, "iterations": 1500, "alpha": 25.0, "every": 5, "lam": 0.5, "threshold": 1.0},
            "K1nght, CIFAR-10, ResNet-18, 10 % at random",
        ),
        "sfron-tiny": Preset(
            {"optimizer": "adamw", "lr": 2e-5, "weight_decay": 0.05}
            | {"iterations": 500, "every": 1, "alpha": 500.0, "lam": 0.6},
            "K1nght, TinyImageNet",
        ),
    }
    ranges: ClassVar[Ranges] = {
        "lr": Range(1e-4, 0.1, log=True),
        "alpha": Range(1.0, 500.0, log=True),
        "lam": Range(0.0, 1.0),
        "threshold": Range(0.1, 10.0, log=True),
        "iterations": Choice((500, 1000, 1500)),
        "every": Choice((1, 5, 10)),
        "clip": Choice((1.0, 7.0, 20.0)),
        "beta": Choice((0.1, 0.5, 1.0)),
    }
    examples: ClassVar[Mapping[str, Any]] = {"iterations": 30, "epochs": 2}

    schedule: str = "cosine"
    epochs: int = 15
    iterations: int = 1500
    every: int = 5
    alpha: float = 25.0
    lam: float = 0.5
    threshold: float = 1.0
    clip: float = 7.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        least = max(1, self.epochs)
        self.require("iterations", self.iterations >= least, f"{least} or more, one for each of the epochs at least")
        self.require("every", self.every >= 1, "1 or more")
        self.require("beta", 0 < self.beta <= 1, "a number above 0, at most 1")
        self.require("clip", self.clip > 0, "a number above 0")

    def strength(self, step: int) -> float:
        """α_t at step t."""
        return self.alpha * 0.5 * (1 + math.cos(math.pi * step / self.iterations))

    def run(self, task: Task) -> None:
        """Alternates."""
        mask = self.mask(task)
        weights = task.named_parameters()
        slow = {name: weight.detach().clone() for name, weight in weights.items()}
        kept, forgotten = task.retain.rounds(0), task.forget.rounds(0)

        def average() -> None:
            for name, weight in weights.items():
                slow[name].lerp_(weight.detach(), self.beta)

        def items(epoch: int) -> Iterator[tuple[Batch, float]]:
            first, last = (round(e * self.iterations / self.epochs) for e in (epoch, epoch + 1))
            for step in range(first, last):
                if self.alpha and step % self.every == 0:
                    yield next(forgotten), self.strength(step)
                yield next(kept), 0.0
                average()

        def objective(network: Network, item: tuple[Batch, float]) -> Tensor:
            batch, strength = item
            logits = network(batch.images)
            if batch.part == "retain":
                return cross_entropy(logits, batch.labels)
            losses = per_sample_cross_entropy(logits, batch.labels)
            return -strength * (weights_of(losses, self.lam) * losses).sum()

        def adjust(item: tuple[Batch, float]) -> None:
            if item[0].part == "forget":
                for name, weight in weights.items():
                    if weight.grad is not None:
                        weight.grad.mul_(mask[name])
                nn.utils.clip_grad_norm_(list(weights.values()), self.clip)

        self.fit(task, items, objective, adjust=adjust)
        if self.beta < 1:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(slow[name])

    def mask(self, task: Task) -> dict[str, Tensor]:
        """1 where F_f ≥ τ·F_r, else 0, by parameter name."""
        theirs, rest = (task.fisher_of(samples).mean for samples in (task.forget, task.retain))
        return {
            name: (theirs[name] >= self.threshold * rest[name]).to(weight.dtype)
            for name, weight in task.named_parameters().items()
        }


def weights_of(losses: Tensor, lam: float) -> Tensor:
    """w_i ∝ ℓ_i^−λ, which sums to 1 and takes no gradient."""
    raised = losses.detach().clamp(min=1e-8) ** -lam
    return raised / raised.sum()
