"""AMUN: fine-tuning on the nearest adversarial image of each forget sample, with the label that the
model gives it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.errors import MethodDidNothing
from .base import Card, Choice, Needs, Preset, Range
from .kit import Batch, GradientMethod, Network, Samples, Task, cross_entropy
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
    presets: ClassVar[Mapping[str, Preset]] = {
        "amun-released": Preset(
            {"lr": 0.05, "final_lr": 5e-12, "schedule": "exponential", "epochs": 10},
            "Ali-E/AMUN, all in one: the rate falls tenfold each epoch",
        ),
        "amun-tuning": Preset({"lr": 0.01, "epochs": 10}, "Ali-E/AMUN hyperparam_tune.py"),
    }
    ranges: ClassVar[Mapping[str, Range | Choice]] = {"lr": Range(1e-4, 0.1, log=True), "epochs": Choice((2, 5, 10))}
    examples: ClassVar[Mapping[str, Any]] = {"attack_steps": 5}

    lr: float = 0.01
    data: str = "amun"
    epsilon: float = 0.01
    growth: float = 1.5
    attack_steps: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data not in DATA:
            raise ValueError(f"data: {self.data!r} is not allowed; allowed are {', '.join(DATA)}")
        if not self.epsilon > 0:
            raise ValueError(f"epsilon: {self.epsilon!r} is not allowed; give a number above 0")
        if not self.growth > 1:
            raise ValueError(f"growth: {self.growth!r} is not allowed; give a number above 1")
        if self.attack_steps < 1:
            raise ValueError(f"attack_steps: {self.attack_steps!r} is not allowed; give 1 or more")

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

        def items(epoch: int) -> Iterator[Batch]:
            return together(sets, epoch, self.batch_size)

        def objective(network: Network, batch: Batch) -> Tensor:
            return cross_entropy(network(batch.images), batch.labels)

        self.fit(task, items, objective)

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
