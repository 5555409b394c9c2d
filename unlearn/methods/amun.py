"""AMUN: fine-tuning on the nearest adversarial image of each forget sample, with the label that the
model gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.errors import MethodDidNothing
from .base import Card, Choice, Needs, Preset, Presets, Range, Ranges
from .kit import GradientMethod, Samples, Task
from .kit.adversary import Pixels, pgd_l2
from .kit.samples import together

DATA = ("amun", "adversarial", "without_retain", "adversarial_only")
_MOST = 30.0  # a radius in pixels at which any image is another one


@dataclass(frozen=True, kw_only=True)
class AMUN(GradientMethod):
    """Fine-tunes on D_r ∪ D_f ∪ D_A, D_A being the nearest adversarial image of each sample of D_f.

    The radius of the attack grows from `epsilon` until the model as given takes the image for
    another class. That class is the label. D_f keeps its own labels.

    **Arguments**, beside those of `GradientMethod`:

    - `data`: `amun` as above; `adversarial` leaves D_f out; `without_retain` is D_f ∪ D_A;
        `adversarial_only` is D_A.
    - `epsilon`: the first Euclidean radius, in pixels of [0, 1]; `growth`: its factor;
        `attack_steps` of each attack.
    """

    name: ClassVar[str] = "amun"
    version: ClassVar[int] = 2
    access: ClassVar[str] = "retain"
    card: ClassVar[Card] = Card(
        "AMUN",
        "D_A = nearest adversarial images of D_f; min CE on D_r ∪ D_f ∪ D_A",
        "Ebrahimpour-Boroojeny, Sundaram, Chandrasekaran, AMUN, ICML 2025, 2503.00917",
        "up to some 20 attacks on the forget set, then 10 passes over all data",
        (
            "D_f stays in the data with its true labels, as in the paper; some re-implementations drop it.",
            "The attack sees images without augmentation. One released script hands it cropped and flipped ones.",
        ),
    )
    presets: ClassVar[Presets] = {
        "amun-released": Preset(
            {"lr": 0.05, "final_lr": 5e-12, "schedule": "exponential", "epochs": 10},
            "Ali-E/AMUN, all in one: the rate falls tenfold each epoch",
        ),
        "amun-tuning": Preset({"lr": 0.01, "epochs": 10}, "Ali-E/AMUN hyperparam_tune.py"),
    }
    ranges: ClassVar[Ranges] = {
        "lr": Range(1e-4, 0.1, log=True),
        "epsilon": Choice((0.01, 0.05, 0.1)),
        "growth": Choice((1.2, 1.5, 2.0)),
        "attack_steps": Choice((10, 20, 50)),
    }
    fixed: ClassVar[frozenset[str]] = frozenset({"data"})
    examples: ClassVar[Mapping[str, Any]] = {"attack_steps": 5}

    lr: float = 0.01
    data: str = "amun"
    epsilon: float = 0.01
    growth: float = 1.5
    attack_steps: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("data", DATA)
        self.require("epsilon", self.epsilon > 0, "a number above 0")
        self.require("growth", self.growth > 1, "a number above 1")
        self.require("attack_steps", self.attack_steps >= 1, "1 or more")

    def needs(self) -> Needs:
        """The retain set, but where `data` leaves it out."""
        without = self.data in ("without_retain", "adversarial_only")
        return replace(super().needs(), access="forget" if without else "retain")

    def run(self, task: Task) -> None:
        """Attacks, then fine-tunes."""
        moved, labels, _ = self.nearest(task)
        if not len(labels):
            raise MethodDidNothing("epsilon: no adversarial image was found; raise growth or attack_steps")
        if len(labels) < task.forget.size:
            task.notes.append(f"{task.forget.size - len(labels)} samples have no adversarial image and are left out")
        made = Samples(
            list(zip(moved.split(256), labels.split(256), strict=True)),
            "forget",
            device=task.device,
            batch_size=self.batch_size,
            augment=None,
            seed=self.seed,
        )
        sets = [made]
        if self.data in ("amun", "without_retain"):
            sets.append(task.forget)
        if self.needs().retain:
            sets.append(task.retain)

        self.fit(task, lambda epoch: together(sets, epoch, self.batch_size))

    def nearest(self, task: Task) -> tuple[Tensor, Tensor, Tensor]:
        """Adversarial images, the labels that the model gives them, and the radius of each; none
        where none is found."""
        teacher, scale = task.teacher(), Pixels.of(task.forget)
        images, true = task.forget.kept
        moved, labels, radii = images.clone(), true.clone(), torch.zeros(len(true), device=images.device)
        left, epsilon = torch.ones_like(true, dtype=torch.bool), self.epsilon
        while bool(left.any()) and epsilon <= _MOST:
            rows = left.nonzero()[:, 0]
            for part in rows.split(256):
                tried = pgd_l2(teacher, images[part], true[part], scale, epsilon, self.attack_steps)
                guess = teacher(tried).argmax(dim=1)
                hit = guess != true[part]
                moved[part[hit]], labels[part[hit]] = tried[hit], guess[hit]
                radii[part[hit]] = epsilon
                left[part[hit]] = False
            epsilon *= self.growth
        return moved[~left], labels[~left], radii[~left]
