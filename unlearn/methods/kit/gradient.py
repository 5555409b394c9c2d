"""The base class of methods that train with an optimiser, and the settings that all have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...core.seeds import check_seed
from ...data.augment import check_augment
from ...training.recipe import Training
from ..base import TRAINING, Choice, Needs, Ranges
from .task import KitMethod, Task
from .work import Item, Objective

SCHEDULES = ("constant", "cosine", "exponential", "triangle")
FINAL = ("cosine", "exponential")  # schedules that go to `final_lr`
BATCH_NORMS = ("train", "frozen")


@dataclass(frozen=True)
class Phase(Training):
    """How one phase of a method is trained:

    `Training` with schedules that unlearning methods use.
    """

    section: ClassVar[str] = ""
    schedule: str = "constant"

    def rate(self, epoch: int) -> float:
        """The learning rate of pass `epoch` = 0, 1, …:

        `cosine` goes from `lr` to 0 (or `final_lr`). `triangle` rises to `lr` over the first half
        of the passes and falls again.
        """
        if self.schedule == "constant" or self.epochs == 0:
            return self.lr
        if self.schedule == "triangle":
            rise = math.ceil(self.epochs / 2)
            return (
                self.lr * (epoch + 1) / rise
                if epoch < rise
                else self.lr * (self.epochs - epoch) / (self.epochs - rise + 1)
            )
        if self.schedule == "cosine":
            low = self.final_lr or 0.0
            return low + (self.lr - low) * 0.5 * (1.0 + math.cos(math.pi * epoch / self.epochs))
        return super().rate(epoch)


@dataclass(frozen=True, kw_only=True)
class GradientMethod(KitMethod):
    """A method that trains. Its fields are settings that public code chooses silently and
    differently.

    **Arguments:**

    - `optimizer`: `sgd`, `adam` or `adamw`; `momentum` is of SGD. `weight_decay` is coupled but for
        `adamw`.
    - `lr`, `final_lr`, `schedule`: `constant`, `cosine` (to `final_lr`, or 0), `exponential` (to
        `final_lr`) or `triangle` (up and down), by the pass. `final_lr` has no effect with
        `constant` and `triangle`, and a note says so. `epochs`: passes.
    - `batch_size`: samples of a step.
    - `batch_norm`: `train` lets normalisation take its statistics from the batches and learn them;
        `frozen` keeps them.
    - `augment`: None, `flip` or `crop_flip`; in a recipe that of `training` where it is not given.
    - `precision`: `float32` or `bfloat16`; in a recipe that of `training` where it is not given.
    - `seed`: of the order, of dropout and of whatever the method draws.

    Raises `ValueError` for values that are not allowed.
    """

    inherits: ClassVar[frozenset[str]] = frozenset({"augment", "precision"})
    fixed: ClassVar[frozenset[str]] = frozenset({"retain_share"})
    ranges: ClassVar[Ranges] = {
        **TRAINING,
        "schedule": Choice(SCHEDULES),
        "batch_norm": Choice(BATCH_NORMS),
    }
    uses_validation: ClassVar[bool] = False

    optimizer: str = "sgd"
    lr: float = 0.01
    final_lr: float | None = None
    schedule: str = "constant"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    epochs: int = 10
    batch_size: int = 128
    batch_norm: str = "train"
    augment: str | None = None
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        self.one_of("schedule", SCHEDULES)
        self.one_of("batch_norm", BATCH_NORMS)
        if self.access == "retain_share":
            self.require("retain_share", 0 < self.retain_share <= 1, "a share above 0, up to 1")
        check_augment(self.augment)
        check_seed(self.seed)
        self.phase()

    @property
    def retain_share(self) -> float:
        """The share of the retain set that is seen, where `access` is `retain_share`.

        A method with that access has a field of this name.
        """
        return 0.0

    def needs(self) -> Needs:
        """What `access`, `retain_share` and `uses_validation` say."""
        return Needs(
            access=self.access,
            share=self.retain_share,
            validation=self.uses_validation,
            graphs=True,
            batch_size=self.batch_size,
            augment=self.augment,
        )

    def idle(self) -> frozenset[str]:
        return super().idle() | (frozenset() if self.schedule in FINAL else {"final_lr"})

    def passes(self) -> int:
        """Passes over the data."""
        return self.epochs

    def phase(self, **changes: Any) -> Phase:
        """The settings of a phase: the method's own with `changes`, such as `lr=` and `epochs=`."""
        names = ("optimizer", "lr", "final_lr", "schedule", "momentum", "weight_decay", "epochs", "batch_size")
        own = {name: self.setting(name, None) for name in (*names, "augment", "precision")}
        return Phase(**{**own, **changes})

    def fit(
        self,
        task: Task,
        items: Callable[[int], Iterable[Item]],
        objective: Objective | None = None,
        *,
        phase: Phase | None = None,
        **options: Any,
    ) -> None:
        """Trains `task.model` with the method's settings, or those of `phase`; see `Task.fit`."""
        settings = {"batch_norm": self.batch_norm, **options}
        note = f"final_lr: {self.final_lr} has no effect with schedule {self.schedule!r}"
        if self.final_lr is not None and "final_lr" in self.idle() and note not in task.notes:
            task.notes.append(note)
        task.fit(self.phase() if phase is None else phase, items, objective, **settings)
