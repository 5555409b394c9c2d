"""How a model is trained: the hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.checked import check_choice, check_integer, check_number
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
        name = self.section
        check_choice(f"{name}optimizer", self.optimizer, OPTIMIZERS)
        check_choice(f"{name}path", self.path, PATHS)
        check_choice(f"{name}precision", self.precision, PRECISIONS)
        check_augment(self.augment, f"{name}augment")
        check_integer(f"{name}batch_size", self.batch_size, 1)
        check_integer(f"{name}epochs", self.epochs, 0)
        check_number(f"{name}lr", self.lr, above=0)
        if self.final_lr is not None:
            check_number(f"{name}final_lr", self.final_lr, above=0)
        check_number(f"{name}momentum", self.momentum, least=0, below=1)
        check_number(f"{name}weight_decay", self.weight_decay, least=0)

    def rate(self, epoch: int) -> float:
        """The learning rate of pass `epoch` = 0, 1, …"""
        if self.final_lr is None or self.epochs == 0:
            return self.lr
        return float(self.lr * (self.final_lr / self.lr) ** (epoch / self.epochs))
