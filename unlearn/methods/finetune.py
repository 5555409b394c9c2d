"""Fine-tuning on the retain set:

the simplest thing that one could do, and what every method should beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Card, Preset, Presets, Range, Ranges
from .kit import GradientMethod, Task


@dataclass(frozen=True, kw_only=True)
class Finetune(GradientMethod):
    """θ ← SGD on CE(D_r). The fields are those of `GradientMethod`."""

    name: ClassVar[str] = "finetune"
    access: ClassVar[str] = "retain"
    card: ClassVar[Card] = Card(
        "Finetune",
        "θ ← SGD on CE(D_r)",
        "Warnecke, Pirch, Wressnegger, Rieck, Machine Unlearning of Features and Labels, 2108.11577",
        "10 passes over the retain set",
    )
    presets: ClassVar[Presets] = {
        "finetune-delete": Preset(
            {"lr": 2e-2, "epochs": 20, "weight_decay": 0.0}, "DELETE scripts.sh, class-wise CIFAR-10"
        ),
        "finetune-salun": Preset({"lr": 0.01, "epochs": 10}, "Unlearn-Saliency, default arguments"),
    }
    ranges: ClassVar[Ranges] = {"lr": Range(1e-3, 0.1, log=True)}

    def run(self, task: Task) -> None:
        """Trains on the retain set."""
        self.fit(task, task.retain.batches)
