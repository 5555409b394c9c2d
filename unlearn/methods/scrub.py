"""SCRUB:

a student that moves away from its teacher on the forget set and stays close to it on the retain
set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..core.errors import UnlearnError
from ..data.scenario import Split
from ..training.predict import predict
from .base import Card, Choice, Needs, Preset, Presets, Range, Ranges
from .kit import Batch, GradientMethod, Network, Task, cross_entropy, divergence


@dataclass(frozen=True, kw_only=True)
class SCRUB(GradientMethod):
    """Epochs e < m: max KL(teacher ‖ student) on D_f. Every epoch: min γ·CE + α·KL on D_r.

    **Arguments**, beside those of `GradientMethod`:

    - `alpha`, `gamma`: weights of KL and CE on the retain set. `temperature` of KL, whose value
        carries T².
    - `msteps`: m, epochs with ascent. `forget_batch`: samples of an ascent step.
    - `rewind`: SCRUB+R. The result is the epoch whose forget error is nearest the final error on
        validation samples of the forget set's classes. Epoch 0 is the model as given. Where whole
        classes are forgotten there are no such samples, and it is refused.

    At θ = θ0 the KL is at its minimum. With dropout off, frozen normalisation and no weight decay
    the first ascent epoch moves nothing; the descent steps, or batch statistics, break the tie.
    """

    name: ClassVar[str] = "scrub"
    access: ClassVar[str] = "retain"
    card: ClassVar[Card] = Card(
        "SCRUB",
        "e < m: max T²·KL(p_t ‖ p_s) on D_f; then min γ·CE + α·T²·KL(p_t ‖ p_s) on D_r",
        "Kurmanji, Triantafillou, Hayes, Triantafillou, Towards Unbounded Machine Unlearning, NeurIPS 2023",
        "10 passes over the retain set, 3 over the forget set, with a forward pass of the teacher each",
        (
            "m epochs of ascent, as in the paper; the released library makes m + 1.",
            "No weight average: in the released code its pull has no effect at the start and is off by default.",
        ),
    )
    presets: ClassVar[Presets] = {
        "scrub-notebook": Preset(
            {"alpha": 0.5, "gamma": 1.0, "temperature": 2.0, "msteps": 3, "lr": 5e-4, "optimizer": "adam"},
            "SCRUB small-scale notebook",
        ),
        "scrub-k1nght": Preset(
            {"lr": 8e-5, "epochs": 6, "gamma": 0.99, "alpha": 0.001, "msteps": 2, "temperature": 4.0},
            "Apollo fork of K1nght, CIFAR-10, ResNet-18, 10 % at random",
        ),
        "scrub-rum": Preset({"lr": 5e-3, "epochs": 5, "msteps": 4, "temperature": 4.0}, "RUM README, CIFAR-10"),
    }
    ranges: ClassVar[Ranges] = {
        "lr": Range(1e-5, 1e-2, log=True),
        "alpha": Range(1e-3, 1.0, log=True),
        "gamma": Range(0.1, 1.0),
        "temperature": Choice((1.0, 2.0, 4.0)),
        "msteps": Choice((1, 2, 3, 4)),
        "forget_batch": Choice((32, 64, 128, 256)),
    }
    fixed: ClassVar[frozenset[str]] = frozenset({"rewind"})  # it decides whether validation is seen

    lr: float = 5e-4
    batch_size: int = 32
    alpha: float = 0.5
    gamma: float = 1.0
    temperature: float = 2.0
    msteps: int = 3
    forget_batch: int = 64
    rewind: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("temperature", self.temperature > 0, "a number above 0")
        self.require("msteps", self.msteps >= 0, "0 or more")
        self.require("forget_batch", self.forget_batch >= 1, "1 or more")

    def needs(self) -> Needs:
        """The retain set; validation data to rewind by."""
        return replace(super().needs(), validation=self.rewind)

    def check(self, split: Split) -> None:
        """Raises `UnlearnError` where whole classes are to be forgotten and it would rewind."""
        super().check(split)
        if self.rewind and split.kind == "classes":
            raise UnlearnError(
                "rewind: True is not allowed where whole classes are forgotten: no unseen sample is of one"
            )

    def run(self, task: Task) -> None:
        """Distils with alternating signs."""
        if self.rewind:
            _unseen(task, torch.cat([labels for _, labels in task.validation]))
        teacher, states = task.teacher(), [_state(task)]

        def items(epoch: int) -> Iterator[Batch]:
            if epoch < self.msteps:
                yield from task.forget.batches(epoch, batch_size=self.forget_batch)
            yield from task.retain.batches(epoch)

        def objective(student: Network, batch: Batch) -> Tensor:
            logits = student(batch.images)
            kl = self.temperature**2 * divergence(teacher(batch.images), logits, self.temperature)
            if batch.part == "forget":
                return -kl
            return self.gamma * cross_entropy(logits, batch.labels) + self.alpha * kl

        def keep(epoch: int) -> None:
            if self.rewind:
                states.append(_state(task))

        self.fit(task, items, objective, after_epoch=keep)
        if self.rewind:
            self._rewind(task, states)

    def _rewind(self, task: Task, states: list[dict[str, Tensor]]) -> None:
        """Goes back to the epoch whose forget error is nearest that of unseen samples of the same
        classes.
        """
        logits, labels = predict(task.model, task.validation)
        own = _unseen(task, labels)
        goal = float((logits.argmax(dim=1) != labels)[own].double().mean())
        errors = []
        for state in states:
            task.model.load_state_dict(state)
            logits, labels = predict(task.model, task.forget.plain())
            errors.append(float((logits.argmax(dim=1) != labels).double().mean()))
        task.stopped_at = min(range(len(errors)), key=lambda epoch: (abs(errors[epoch] - goal), epoch))
        task.model.load_state_dict(states[task.stopped_at])
        task.kept_as_given = "its forget error is nearest that of unseen samples"


def _unseen(task: Task, labels: Tensor) -> Tensor:
    """Which held-out samples are of the forget set's classes, bool `(n,)`; one at the least."""
    own = torch.isin(labels.cpu(), task.forget.kept[1].cpu())
    if not bool(own.any()):
        raise UnlearnError("validation: it holds no sample of the forget set's classes to rewind by; give some")
    return own


def _state(task: Task) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in task.model.state_dict().items()}
