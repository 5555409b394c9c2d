"""Seif (CFW): the third place of the NeurIPS 2023 unlearning competition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.batches import to_device
from ..core.modes import frozen_notes
from .base import Card, Choice, Preset, Presets, Range, Ranges
from .kit import Batch, GradientMethod, Network, Task

LAYERS = ("first", "all")


@dataclass(frozen=True, kw_only=True)
class Seif(GradientMethod):
    """Adds noise to convolutions, trains on D_r, and adds a little noise again before the last
    epoch.

    **Arguments**, beside those of `GradientMethod`:

    - `noise`, `last_noise`: deviations of the noise at the start and before the last epoch.
    - `layers`: `first` puts it on the first convolution alone, as released code does on a ResNet;
        `all` on every one.
    - `class_weights`: weigh each sample by the inverse of its class's frequency in D_r.
    """

    name: ClassVar[str] = "seif"
    access: ClassVar[str] = "retain"
    card: ClassVar[Card] = Card(
        "Seif (CFW)",
        "θ_conv + 0.6·N(0, 1); min CE(D_r), weighted by class; θ_conv + 0.005·N(0, 1) before the last epoch",
        "Third place, NeurIPS 2023 Machine Unlearning Challenge; Cadet et al., DeepUnlearn, 2410.01276",
        "4 passes over the retain set",
        (
            "Class weights weigh samples. Released code multiplies a mean by one number, which changes no direction.",
            "The original was not to be had: written from DeepUnlearn's description.",
        ),
    )
    presets: ClassVar[Presets] = {
        "seif-deepunlearn": Preset({"lr": 7e-4, "epochs": 4}, "DeepUnlearn munl/unlearning/kgltop4"),
    }
    ranges: ClassVar[Ranges] = {
        "lr": Range(1e-4, 0.1, log=True),
        "noise": Range(0.01, 1.0, log=True),
        "last_noise": Choice((0.0, 0.005, 0.05)),
        "layers": Choice(LAYERS),
        "class_weights": Choice((False, True)),
    }
    examples: ClassVar[Mapping[str, Any]] = {"noise": 0.05, "lr": 0.01}

    lr: float = 7e-4
    schedule: str = "cosine"
    epochs: int = 4
    noise: float = 0.6
    last_noise: float = 0.005
    layers: str = "first"
    class_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("layers", LAYERS)
        self.require("noise", self.noise >= 0, "0 or more")
        self.require("last_noise", self.last_noise >= 0, "0 or more")

    def run(self, task: Task) -> None:
        """Confuses and repairs."""
        weights = self._weights(task) if self.class_weights else None

        def objective(network: Network, batch: Batch) -> Tensor:
            return F.cross_entropy(network(batch.images), batch.labels, weight=weights)

        def confuse(epoch: int) -> None:
            if epoch == self.epochs - 1:
                self._confuse(task, self.last_noise)

        task.notes += frozen_notes(task.model, {id(weight) for weight in self._confused(task)})
        self._confuse(task, self.noise)
        confuse(0)
        self.fit(task, task.retain.batches, objective, after_epoch=confuse)

    def _confused(self, task: Task) -> list[nn.Parameter]:
        found = list(task.convolutions())
        return [task.model.get_parameter(f"{name}.weight") for name in (found[:1] if self.layers == "first" else found)]

    def _confuse(self, task: Task, deviation: float) -> None:
        with torch.no_grad():
            for weight in self._confused(task):
                weight.add_(deviation * torch.randn_like(weight))

    def _weights(self, task: Task) -> Tensor:
        counts = torch.zeros(task.num_classes, device=task.device)
        for batch in task.retain.plain():
            counts += torch.bincount(to_device(batch, task.device)[1], minlength=task.num_classes)
        return counts.sum() / (task.num_classes * counts.clamp(min=1))
