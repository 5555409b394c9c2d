"""Random labels: the forget set is trained with labels drawn at random, the retain set with its
own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.seeds import stream
from .base import Card, Choice, Preset, Presets, Range, Ranges
from .kit import Batch, GradientMethod, Task, mixed, other_labels

LABELS = ("any", "wrong")
REDRAWS = ("epoch", "once")
ORDERS = ("forget_first", "mixed")
_DRAW = 9  # names the random stream


@dataclass(frozen=True, kw_only=True)
class RandomLabel(GradientMethod):
    """Each epoch trains CE on D_f with random labels and CE on D_r.

    **Arguments**, beside those of `GradientMethod`:

    - `labels`: `any` draws from all classes, the true one among them; `wrong` from the others.
    - `redraw`: new labels each `epoch`, or `once` for all epochs.
    - `order`: `forget_first` passes over all of D_f, then all of D_r; `mixed` shuffles both
        together.
    """

    name: ClassVar[str] = "random_label"
    access: ClassVar[str] = "retain"
    card: ClassVar[Card] = Card(
        "RandomLabel",
        "min CE(D_f, random labels) + CE(D_r), one after the other",
        "Golatkar, Achille, Soatto, CVPR 2020; as released with SalUn, ICLR 2024",
        "10 passes over the forget and the retain set",
        ("Public code redraws by the batch. A pass sees each sample once, so that is our redraw by the epoch.",),
    )
    presets: ClassVar[Presets] = {
        "random-label-k1nght": Preset(
            {"lr": 3e-3, "labels": "wrong", "redraw": "once", "order": "mixed", "schedule": "cosine"},
            "Apollo fork of K1nght, CIFAR-10, ResNet-18, 10 % at random",
        ),
        "random-label-rum": Preset({"lr": 0.1, "epochs": 10}, "RUM README, CIFAR-10"),
        "random-label-delete": Preset(
            {"lr": 3e-4, "epochs": 20, "weight_decay": 0.0}, "DELETE scripts.sh, class-wise CIFAR-10"
        ),
        "amnesiac": Preset(
            {"optimizer": "adam", "lr": 1e-4, "weight_decay": 0.0, "epochs": 3}
            | {"labels": "wrong", "redraw": "once", "order": "mixed"},
            "if-loops/selective-synaptic-dampening, amnesiac",
        ),
    }
    ranges: ClassVar[Ranges] = {
        "lr": Range(1e-4, 0.1, log=True),
        "epochs": Choice((3, 5, 10)),
        "labels": Choice(LABELS),
        "redraw": Choice(REDRAWS),
        "order": Choice(ORDERS),
    }

    lr: float = 0.013
    labels: str = "any"
    redraw: str = "epoch"
    order: str = "forget_first"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("labels", LABELS)
        self.one_of("redraw", REDRAWS)
        self.one_of("order", ORDERS)

    def drawn(self, task: Task, epoch: int) -> Tensor:
        """The forget set's labels in pass `epoch`, int64 `(n,)` by row."""
        true = task.forget.kept[1]
        draw = stream(self.seed, _DRAW, epoch if self.redraw == "epoch" else 0)
        classes = task.num_classes
        if self.labels == "any":
            return torch.as_tensor(draw.integers(0, classes, len(true)), device=true.device)
        return other_labels(true, classes, draw)

    def mask(self, task: Task) -> Mapping[str, Tensor] | None:
        """The weights that may move; None for all."""
        return None

    def run(self, task: Task) -> None:
        """Trains on both sets, the forget set with drawn labels."""

        def items(epoch: int) -> Iterator[Batch]:
            labels = self.drawn(task, epoch)
            if self.order == "mixed":
                yield from mixed(task.forget, task.retain, epoch, forget_labels=labels)
            else:
                yield from task.forget.batches(epoch, labels=labels)
                yield from task.retain.batches(epoch)

        self.fit(task, items, mask=self.mask(task))
