"""UNSIR: noise that the model finds hardest is learned as the class to forget, then repaired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..training.step import Adam
from .base import Card, Choice, Preset, Presets, Range, Ranges
from .kit import GradientMethod, Network, Samples, Task, cross_entropy, mixed


@dataclass(frozen=True, kw_only=True)
class UNSIR(GradientMethod):
    """Learns noise for each class to forget, trains on it (impair), then on retain data (repair).

    **Arguments**, beside those of `GradientMethod`, whose `lr` and `batch_size` are of impairing:

    - `noise_samples`, `noise_lr`, `noise_steps`, `noise_penalty`: Adam minimises −CE(f(n), c) +
        penalty·mean Σ n² over that many images n ~ N(0, 1) for each class c.
    - `copies`: how often each noise image is trained on. `repair_lr`, `repair_batch`: of repairing.
    - `retain_share`: the share of the retain set that impairing and repairing see.
    """

    name: ClassVar[str] = "unsir"
    version: ClassVar[int] = 2
    access: ClassVar[str] = "retain_share"
    scenarios: ClassVar[frozenset[str]] = frozenset({"classes"})
    card: ClassVar[Card] = Card(
        "UNSIR",
        "n_c: min −CE(f(n), c) + 0.1·mean Σ n²; train on (n_c, c) and a share of D_r; then on that share",
        "Tarun, Chundawat, Mandal, Kankanhalli, Fast Yet Effective Machine Unlearning, TNNLS 2023",
        "40 passes over the noise, one over it and a share of the retain set, one over that share",
        (
            "Noise is labelled with the class that it was made for; the released notebook labels all of it 0.",
            "Noise is made with the model in evaluation mode; released code lets it change the statistics.",
            "A share of the retain set, not 1,000 samples a class; 0.2 is the same on CIFAR-10.",
        ),
    )
    presets: ClassVar[Presets] = {
        "unsir-notebook": Preset({"lr": 0.02, "repair_lr": 0.01, "copies": 20}, "Fast-Machine-Unlearning notebook"),
        "unsir-ssd": Preset(
            {"lr": 1e-4, "repair_lr": 1e-4, "batch_size": 32, "noise_steps": 25, "copies": 80, "repair_batch": 128},
            "if-loops/selective-synaptic-dampening and SUPREME",
        ),
    }
    ranges: ClassVar[Ranges] = {
        "lr": Range(1e-5, 0.05, log=True),
        "repair_lr": Range(1e-5, 0.05, log=True),
        "noise_samples": Choice((64, 256)),
        "noise_lr": Range(0.01, 1.0, log=True),
        "noise_steps": Choice((20, 40, 100)),
        "noise_penalty": Range(0.01, 1.0, log=True),
        "copies": Choice((10, 20, 80)),
        "repair_batch": Choice((64, 128, 256)),
    }
    examples: ClassVar[Mapping[str, Any]] = {"noise_samples": 8, "noise_steps": 5, "copies": 2, "lr": 1e-3}

    optimizer: str = "adam"
    lr: float = 0.02
    weight_decay: float = 0.0
    epochs: int = 1
    batch_size: int = 256
    noise_samples: int = 256
    noise_lr: float = 0.1
    noise_steps: int = 40
    noise_penalty: float = 0.1
    copies: int = 20
    repair_lr: float = 0.01
    repair_batch: int = 256
    retain_share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("noise_samples", "noise_steps", "copies", "repair_batch"):
            self.require(name, self.setting(name, 0) >= 1, "an integer of 1 or more")
        for name in ("noise_lr", "repair_lr"):
            self.require(name, self.setting(name, 0.0) > 0, "a number above 0")
        self.require("noise_penalty", self.noise_penalty >= 0, "0 or more")

    def run(self, task: Task) -> None:
        """Makes noise, impairs, repairs."""
        if not self.epochs:
            return
        noise = self.noise(task)
        options: dict[str, Any] = {"device": task.device, "batch_size": self.batch_size, "augment": None}
        learned = Samples(noise * self.copies, "forget", seed=self.seed, **options)

        self.fit(task, lambda epoch: mixed(learned, task.retain, epoch, batch_size=self.batch_size))
        repair = self.phase(lr=self.repair_lr, batch_size=self.repair_batch)
        self.fit(task, lambda epoch: task.retain.batches(epoch, batch_size=self.repair_batch), phase=repair)

    def noise(self, task: Task) -> list[tuple[Tensor, Tensor]]:
        """Returns the noise images of each class to forget, with that class as their label."""
        network = task.teacher()
        shape = task.forget.kept[0].shape[1:]
        found = []
        for label in task.forget_classes:
            images = torch.randn(self.noise_samples, *shape, device=task.device).requires_grad_(True)
            labels = torch.full((self.noise_samples,), label, dtype=torch.int64, device=task.device)
            optimizer = Adam([images], lr=self.noise_lr)
            for _ in range(self.noise_steps):
                optimizer.zero_grad(set_to_none=True)
                penalty = images.square().flatten(1).sum(dim=1).mean()
                logits = Network(network.module, network.precision)(images)
                loss = -cross_entropy(logits, labels) + self.noise_penalty * penalty
                loss.backward()
                optimizer.step()
            found.append((images.detach(), labels))
        return found
