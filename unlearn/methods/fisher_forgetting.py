"""Fisher forgetting: noise on each weight, the more the less the weight matters to the retained
data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core.seeds import check_seed
from ..models.classes import last_linear
from ..models.probe import Probe
from .base import Card, Preset, Presets, Range, Ranges
from .kit import KitMethod, Task


@dataclass(frozen=True, kw_only=True)
class FisherForgetting(KitMethod):
    """θ ← θ + σ·N(0, 1) with σ² = α·min(1/(F_r + 1e-8), 1e3), F_r the expected Fisher diagonal of
    the retained data.

    Weights of two dimensions or more take the mean of σ² over their inputs (dimension 1). σ² is 10
    times that in the last layer, where 1/F is cut at 1e2, and in one-dimensional weights. Rows of
    forgotten classes are drawn about 0.

    **Arguments:** `alpha` (α); `seed` of the noise.
    """

    name: ClassVar[str] = "fisher"
    version: ClassVar[int] = 2
    access: ClassVar[str] = "fisher"
    statistic: ClassVar[str] = "expected"
    card: ClassVar[Card] = Card(
        "Fisher forgetting",
        "θ ← θ + √(α/F_r)·N(0, 1)",
        "Golatkar, Achille, Soatto, Eternal Sunshine of the Spotless Net, CVPR 2020",
        "one pass of single-sample gradients over the forget set for each class, and one over all data",
        (
            "F_r = F_D − F_f from stored sums, of single samples: released code squares means of batches.",
            "The last layer is found by its place. Released code takes any tensor whose first size is the class count.",
        ),
    )
    presets: ClassVar[Presets] = {
        "fisher-ssd": Preset({"alpha": 3e-6}, "if-loops/selective-synaptic-dampening"),
        "fisher-delete": Preset({"alpha": 1e-7}, "DELETE scripts.sh, class-wise CIFAR-10"),
    }
    ranges: ClassVar[Ranges] = {"alpha": Range(1e-9, 1e-4, log=True)}

    alpha: float = 3e-6
    seed: int = 0

    def __post_init__(self) -> None:
        self.require("alpha", self.alpha >= 0, "0 or more")
        check_seed(self.seed)

    def variance(self, fisher: Tensor, last: bool) -> Tensor:
        """σ² of one parameter, from its Fisher diagonal."""
        found = self.alpha * (1 / (fisher.clamp(min=0.0) + 1e-8)).clamp(max=1e2 if last else 1e3)
        if found.ndim > 1:
            found = found.mean(dim=1, keepdim=True).expand_as(found)
        return found * 10 if last or found.ndim == 1 else found

    def check_model(self, model: nn.Module, looked: Probe) -> None:
        looked.require_head(model)

    def run(self, task: Task) -> None:
        """Adds the noise."""
        retained = (task.fisher("expected") - task.fisher_of(task.forget, "expected")).mean
        head = last_linear(task.model)[0]
        with torch.no_grad():
            for name, weight in task.named_parameters().items():
                last = name in (f"{head}.weight".lstrip("."), f"{head}.bias".lstrip("."))
                variance = self.variance(retained[name].to(weight.device), last)
                noise = torch.randn(weight.shape, device=weight.device)
                if last and task.forget_classes:
                    rows = list(task.forget_classes)
                    weight[rows] = 0.0
                    variance = variance.clone()
                    variance[rows] = 1e-3  # 10 · 1e-4
                weight.add_((variance.sqrt() * noise).to(weight.dtype))
