"""OrthoGrad: ascent on the forget set along directions in which no retain sample of the batch
changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..moments.per_sample import per_sample_gradients
from ..training.predict import evaluating
from .base import Card, Choice, Preset, Presets, Range, Ranges
from .kit import Batch, GradientMethod, Network, Task, cross_entropy

Vector = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class OrthoGrad(GradientMethod):
    """θ ← θ − η·(α·ḡ_r − (1 − α)·g⊥), g⊥ = g_f − Q·Qᵀ·g_f, Q from the QR of the gradients of n
    retain samples.

    **Arguments**, beside those of `GradientMethod`:

    - `alpha` (α) in [0, 1]: the share of descent on the retain samples; 0 is pure ascent.
    - `retain_batch` (n): 0 projects nothing out, which is GradAscent.
    - `whole`: project the whole gradient at once. Else each tensor by itself, as released, where a
        tensor of n numbers or fewer keeps no gradient at all.
    """

    name: ClassVar[str] = "ortho_grad"
    version: ClassVar[int] = 2
    access: ClassVar[str] = "retain"
    card: ClassVar[Card] = Card(
        "OrthoGrad",
        "θ ← θ − η·(α·ḡ_r − (1 − α)·(I − QQᵀ)·g_f), Q = qr(G_rᵀ)",
        "Shamsian, Shaar, Navon, Chechik, Fetaya, Go Beyond Your Means, 2503.02312",
        "5 passes over the forget set, each step with the gradients of n retain samples",
        ("The projected gradient is g_f of a batch; the released code is for adapters of speech models.",),
    )
    presets: ClassVar[Presets] = {
        "ortho-grad-released": Preset({"alpha": 0.0, "retain_batch": 16}, "released code, per tensor"),
    }
    ranges: ClassVar[Ranges] = {
        "alpha": Range(0.0, 0.9),
        "retain_batch": Choice((8, 16, 32)),
        "whole": Choice((False, True)),
    }

    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    epochs: int = 5
    batch_norm: str = "frozen"
    alpha: float = 0.5
    retain_batch: int = 16
    whole: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("alpha", 0 <= self.alpha <= 1, "a number from 0 to 1")
        self.require("retain_batch", self.retain_batch >= 0, "0 or more")
        self.require("alpha", self.retain_batch > 0 or self.alpha == 0, "0 where there are no retain samples")

    def run(self, task: Task) -> None:
        """Climbs, sideways of the retain set."""

        def items(epoch: int) -> Iterator[tuple[Batch, Batch | None]]:
            kept = task.retain.rounds(epoch, batch_size=self.retain_batch) if self.retain_batch else None
            for batch in task.forget.batches(epoch):
                yield batch, None if kept is None else next(kept)

        def objective(network: Network, item: tuple[Batch, Batch | None]) -> Tensor:
            return cross_entropy(network(item[0].images), item[0].labels)

        def adjust(item: tuple[Batch, Batch | None]) -> None:
            gradients = {
                name: weight.grad for name, weight in task.named_parameters().items() if weight.grad is not None
            }
            up, each = dict(gradients), {}
            if item[1] is not None:
                with evaluating(task.model):
                    parts = list(per_sample_gradients(task.model, item[1].images, item[1].labels))
                each = {name: torch.cat([part[name].flatten(1) for part in parts]) for name in up}
                up = without(up, each, self.whole)
            for name, part in up.items():
                down = each[name].mean(dim=0).view_as(part) if each else torch.zeros_like(part)
                # In place: fused optimisers take a gradient to have its weight's memory format.
                gradients[name].copy_(self.alpha * down - (1 - self.alpha) * part)

        self.fit(task, items, objective, adjust=adjust)


def without(gradient: Vector, rows: Vector, whole: bool) -> Vector:
    """Returns `gradient` less its part in the span of `rows`.

    **Arguments:** `rows`: parameter name → `(n, numel)`. `whole`: of the whole vector, else tensor
    by tensor.
    """
    if whole:
        names = list(gradient)
        flat = torch.cat([gradient[name].flatten() for name in names])
        left = _less(flat, torch.cat([rows[name] for name in names], dim=1))
        parts = left.split([gradient[name].numel() for name in names])
        return {name: part.view_as(gradient[name]) for name, part in zip(names, parts, strict=True)}
    return {name: _less(part.flatten(), rows[name]).view_as(part) for name, part in gradient.items()}


def _less(vector: Tensor, rows: Tensor) -> Tensor:
    # Rows may be dependent or zero: singular vectors of what is not rounding span them, where a
    # bare QR would not.
    _, sizes, basis = torch.linalg.svd(rows.double(), full_matrices=False)
    basis = basis[sizes > 1e-7 * sizes.max().clamp(min=1e-300)]
    exact = vector.double()
    return (exact - basis.T @ (basis @ exact)).to(vector.dtype)
