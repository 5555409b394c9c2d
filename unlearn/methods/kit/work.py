"""One optimiser step of an unlearning method:

its own objective on its own items, with a mask or a clipped norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...models.logits import HALVES, forward, logits_of
from ...training.recipe import Training
from ...training.step import autocast, make_optimizer, new_generator, own_generator, set_rate, trained_parameters
from .losses import cross_entropy
from .samples import Batch

Item = Any  # what a pass yields: a `Batch`, a pair of them, or a batch beside a number


@dataclass(frozen=True)
class Network:
    """A model as objectives call it: images to float32 logits, in the precision of the method.

    **Arguments:** `module`: the model. `frozen`: whether no gradient is taken, as of a teacher.
    """

    module: nn.Module
    precision: str = "float32"
    frozen: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen),
            autocast(images.device, self.precision),
        ):
            logits = logits_of(forward(self.module, images))
        return logits.float() if logits.dtype in HALVES else logits


Objective = Callable[[Network, Item], Tensor]


def classify(network: Network, batch: Batch) -> Tensor:
    """The objective of training: cross-entropy on a batch."""
    return cross_entropy(network(batch.images), batch.labels)


def size_of(item: Item) -> int:
    """The number of images in an item: those of its batches together."""
    if isinstance(item, Batch):
        return len(item)
    return sum(size_of(part) for part in item) if isinstance(item, tuple) else 0


class ObjectiveWork:
    """See the head of this file; a `Work` of the training loop.

    **Arguments:**

    - `objective`: the network and an item to the loss that is minimised.
    - `mask`: parameter name → 0 or 1 of its shape. Where it is 0 a weight keeps its bits, whatever
        momentum and weight decay would do to it. Parameters that it does not name are left alone
        altogether.
    - `clip`: the largest norm of the whole gradient.
    - `adjust`: called with the item when gradients are there, before they are clipped and used. It
        must change them in place: fused optimisers need a weight's own memory format.
    """

    def __init__(
        self,
        model: nn.Module,
        training: Training,
        device: torch.device,
        seed: int,
        objective: Objective,
        *,
        mask: Mapping[str, Tensor] | None = None,
        clip: float | None = None,
        adjust: Callable[[Item], None] | None = None,
    ) -> None:
        self.objective, self.clip, self.adjust = objective, clip, adjust
        self.network = Network(model, training.precision)
        self.parameters = trained_parameters(model)
        self.optimizer = make_optimizer(self.parameters, training, device)
        self.kept: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        if mask is not None:
            named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
            self.kept = [
                (p, mask[name].bool() if name in mask else torch.zeros_like(p, dtype=torch.bool), p.detach().clone())
                for name, p in named
            ]
        self.generator = new_generator(device)
        if self.generator is not None:
            self.generator.manual_seed(seed)

    def begin_pass(self, rate: float) -> None:
        """Sets the learning rate."""
        set_rate(self.optimizer, rate)

    def __call__(self, item: Item) -> tuple[Tensor, Tensor | None, int]:
        """Makes a step; returns the loss, None, and the number of images."""
        self.optimizer.zero_grad(set_to_none=True)
        with own_generator(self.generator):
            loss = self.objective(self.network, item)
            loss.backward()
        if self.adjust is not None:
            self.adjust(item)
        for parameter, moves, _ in self.kept:
            if parameter.grad is not None:
                parameter.grad.mul_(moves)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        with torch.no_grad():
            for parameter, moves, before in self.kept:
                torch.where(moves, parameter, before, out=parameter)
        return loss.detach(), None, size_of(item)

    def end_pass(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Drops gradients."""
        self.optimizer.zero_grad(set_to_none=True)
