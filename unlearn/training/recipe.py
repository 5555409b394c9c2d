"""How a model is trained: the hyperparameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..data.augment import check_augment

OPTIMIZERS = ("sgd", "adam", "adamw")


PATHS = ("fast", "plain")


PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Training:
    """How a model is trained. The fields are the recipe keys of `training`; the defaults are the
    paper's for SmallVGG.

    **Arguments:**

    - `optimizer`: `sgd`, `adam` or `adamw`, whose weight decay is decoupled.
    - `lr`, `final_lr`: pass e = 0, 1, … uses lr·(final_lr/lr)^(e/epochs), which is `ExponentialLR`
        stepped after each pass so that the rate arrives at `final_lr` when training ends.
        `final_lr` None keeps `lr`.
    - `momentum`: of SGD; the others ignore it.
    - `weight_decay`: for every parameter; coupled (L2) but for `adamw`.
    - `batch_size`: images a step; the last batch of a pass holds what is left.
    - `epochs`: passes over the data.
    - `augment`: None, `flip` or `crop_flip`.
    - `path`: `fast`, or `plain`: the reference that trains as scripts usually do, from Pillow
        images through a `DataLoader`.
    - `precision`: `float32`, or `bfloat16`: autocast with float32 weights.

    Raises `ValueError` for values that are not allowed.
    """

    section: ClassVar[str] = "training."  # what errors put ahead of a field's name

    optimizer: str = "sgd"
    lr: float = 0.01
    final_lr: float | None = 0.0005
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 256
    epochs: int = 200
    augment: str | None = "crop_flip"
    path: str = "fast"
    precision: str = "float32"

    def __post_init__(self) -> None:
        for field, allowed in (("optimizer", OPTIMIZERS), ("path", PATHS), ("precision", PRECISIONS)):
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(
                    f"{self.section}{field}: {value!r} is not allowed; allowed are {' and '.join(allowed)}"
                )
        check_augment(self.augment, f"{self.section}augment")
        for field, least in (("batch_size", 1), ("epochs", 0)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{self.section}{field}: {value!r} is not allowed; give an integer of {least} or more")
        rates = ("lr",) if self.final_lr is None else ("lr", "final_lr")
        for field in rates:
            value = getattr(self, field)
            if not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ValueError(f"{self.section}{field}: {value!r} is not allowed; give a number above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"{self.section}momentum: {self.momentum!r} is not allowed; give 0 or more, below 1")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"{self.section}weight_decay: {self.weight_decay!r} is not allowed; give 0 or more")

    def rate(self, epoch: int) -> float:
        """The learning rate of pass `epoch` = 0, 1, …"""
        if self.final_lr is None or self.epochs == 0:
            return self.lr
        return float(self.lr * (self.final_lr / self.lr) ** (epoch / self.epochs))
