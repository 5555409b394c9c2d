"""MU-Mis: the forget set's own logit is made less sensitive to its images than another class's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.seeds import stream
from ..training.predict import accuracy
from .base import Card, Preset, Presets, Range, Ranges
from .kit import Batch, GradientMethod, Network, Task, other_labels

_OTHER = 20  # names the random stream


@dataclass(frozen=True, kw_only=True)
class MUMis(GradientMethod):
    """Minimises the mean over D_f of ‖∇ₓf_y‖² − ‖∇ₓf_c'‖², c' another class drawn at random for
    each sample in each pass.

    The loss has no lower bound. The method stops after the epoch in which the accuracy on the
    forget set is no longer above that on held-out samples. The fields are those of
    `GradientMethod`; there is no momentum.
    """

    name: ClassVar[str] = "mu_mis"
    access: ClassVar[str] = "forget"
    uses_validation: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        "MU-Mis",
        "min mean_x[‖∇ₓf_y‖² − ‖∇ₓf_c'‖²] on D_f",
        "Cheng, Huang, Zhou, He, Yang, Wu, Huang, Suppressing Sample Contribution, ICLR 2026, 2402.15109",
        "up to 10 passes over the forget set, each with a second backward pass",
        (
            "Not read in the authors' code, which was not to be had: written from the paper's loss.",
            "The stop is ours. The paper stops once the other classes' sensitivity is back at its first value.",
        ),
    )
    presets: ClassVar[Presets] = {
        "mu-mis-torchunlearn": Preset({"lr": 1e-4, "epochs": 1}, "torchunlearn, a re-implementation"),
    }
    ranges: ClassVar[Ranges] = {"lr": Range(1e-7, 1e-2, log=True)}

    lr: float = 1e-4
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_norm: str = "frozen"

    def run(self, task: Task) -> None:
        """Makes passes until the forget set is recognised no better than unseen samples."""

        def items(epoch: int) -> Iterator[tuple[Batch, Tensor]]:
            others = other_labels(task.forget.kept[1], task.num_classes, stream(self.seed, _OTHER, epoch))
            return ((batch, others[batch.rows]) for batch in task.forget.batches(epoch))

        def objective(network: Network, item: tuple[Batch, Tensor]) -> Tensor:
            return sensitivity_gap(network, item[0].images, item[0].labels, item[1])

        def known_no_better(epoch: int) -> bool:
            better = accuracy(task.model, task.forget.plain()) > accuracy(task.model, task.validation)
            task.stopped_at = None if better else epoch
            return not better

        self.fit(task, items, objective, after_epoch=known_no_better)


def sensitivity_gap(network: Network, images: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    """The mean over images of ‖∇ₓf_label‖² − ‖∇ₓf_other‖², with a graph to the weights."""
    inputs = images.detach().requires_grad_(True)
    logits = network(inputs)
    sizes = []
    for classes in (labels, others):
        (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), inputs, create_graph=True)
        sizes.append(gradient.flatten(1).square().sum(dim=1))
    return (sizes[0] - sizes[1]).mean()
