"""Boundary Expand: the forget set is pushed into a class of its own, which is then dropped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ..models.classes import last_linear, with_module
from ..models.probe import Probe
from .base import Card, Preset, Presets, Range, Ranges
from .kit import GradientMethod, Task


@dataclass(frozen=True, kw_only=True)
class BoundaryExpand(GradientMethod):
    """Gives the last layer one more output, trains D_f to it, and takes it out again. Fields:
    `GradientMethod`'s."""

    name: ClassVar[str] = "boundary_expand"
    access: ClassVar[str] = "forget"
    card: ClassVar[Card] = Card(
        "BoundaryExpand",
        "min CE(f₊(x), C) on D_f, where f₊ has an output C more; then drop it",
        "Chen, Gao, Liu, Peng, Wang, Boundary Unlearning, CVPR 2023",
        "10 passes over the forget set",
        ("The added output is dropped. One public version keeps it, which counts answers “C” as forgotten.",),
    )
    presets: ClassVar[Presets] = {
        "boundary-expand-authors": Preset({"lr": 1e-5, "epochs": 10}, "TY-LEE-KR/Boundary-Unlearning-Code"),
        "boundary-expand-delete": Preset({"lr": 8e-4, "epochs": 20}, "DELETE scripts.sh, class-wise CIFAR-10"),
    }
    ranges: ClassVar[Ranges] = {"lr": Range(1e-8, 1e-2, log=True)}

    lr: float = 1e-5
    weight_decay: float = 0.0
    batch_size: int = 64

    def check_model(self, model: nn.Module, looked: Probe) -> None:
        looked.require_head(model)

    def run(self, task: Task) -> None:
        """Trains with the added output."""
        name, last = last_linear(task.model)
        mode = last.training
        task.model = with_module(task.model, name, _with_rows(last, 1))
        extra = torch.full_like(task.forget.kept[1], last.out_features)
        # accuracies mean nothing while the output is there
        monitor, task.monitor = task.monitor, {}
        self.fit(task, lambda epoch: task.forget.batches(epoch, labels=extra))
        _, grown = last_linear(task.model)
        task.model = with_module(task.model, name, _with_rows(grown, -1).train(mode))
        task.monitor = monitor


def _with_rows(linear: nn.Linear, change: int) -> nn.Linear:
    """A copy of `linear` with one output more, drawn as a new layer draws it, or one less."""
    with torch.no_grad():
        kept = min(linear.out_features, linear.out_features + change)
        made = nn.Linear(linear.in_features, linear.out_features + change, bias=linear.bias is not None)
        made = made.to(linear.weight.device, linear.weight.dtype)
        bound = 1 / math.sqrt(linear.in_features)
        made.weight.uniform_(-bound, bound)
        made.weight[:kept] = linear.weight[:kept]
        if linear.bias is not None:
            made.bias[:kept] = linear.bias[:kept]
    return made.train(linear.training)
