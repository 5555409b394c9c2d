"""NegMerge: several models fine-tuned on the forget set agree on what to take away."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import UnlearnError
from ..core.seeds import stream
from ..training.predict import accuracy
from .base import Card, Choice, Needs, Preset, Presets, Range, Ranges
from .kit import Batch, GradientMethod, Network, Task

_PART = 16  # names the random stream
_SCALES = tuple(step / 20 for step in range(1, 41))  # 0.05 to 2
# where even the least of those costs too much accuracy
_SMALLER = tuple(_SCALES[0] / 2**halving for halving in range(1, 7))


@dataclass(frozen=True, kw_only=True)
class NegMerge(GradientMethod):
    """θ ← θ0 − λ·τ, τ = mean_i(τ_i)·[all τ_i have one sign], τ_i = θ_i − θ0 of n models fine-tuned
    on D_f.

    The n settings are the first of 27, in an order drawn from the seed. They are the products of
    three lists: `epochs` × {0.8, 1, 1.2}; `weight_decay` × {1, 0.5, 0.1}; `smoothing` × {0, ½, 1}.
    Equal products, as of no weight decay, count once.

    **Arguments**, beside those of `GradientMethod`:

    - `models` (n), up to the number of settings. `smoothing`: the largest label smoothing.
    - `scale` (λ); null takes the largest of 0.05 … 2 that keeps the share `keep` of the validation
        accuracy. Where 0.05 keeps less it is halved, up to six times, and a note says so.
    """

    name: ClassVar[str] = "negmerge"
    version: ClassVar[int] = 2
    access: ClassVar[str] = "forget"
    card: ClassVar[Card] = Card(
        "NegMerge",
        "θ ← θ0 − λ·mean_i(θ_i − θ0)·[all signs agree]",
        "Kim, Han, Choi, NegMerge: Sign-Consensual Weight Merging, ICML 2025, 2410.05583",
        "n times about 50 passes over the forget set",
        (
            "Written from the paper and a replication; the authors released no code.",
            "λ may fall below 0.05 where that alone costs too much accuracy.",
            "Only weights are merged. The replication also negates running variances, which may then be negative.",
        ),
    )
    presets: ClassVar[Presets] = {
        "negmerge-resnet": Preset({"lr": 0.05, "epochs": 50}, "ArisKaralis/Resnet_MU, a replication, CIFAR-10"),
    }
    ranges: ClassVar[Ranges] = {
        "lr": Range(1e-3, 0.1, log=True),
        "epochs": Choice((10, 20, 50)),
        "models": Choice((3, 9, 27)),
        "smoothing": Choice((0.05, 0.1)),
        "weight_decay": Choice((1e-4, 5e-4)),
        "scale": Choice((None, 0.5, 1.0)),
        "keep": Range(0.8, 1.0),
    }
    examples: ClassVar[Mapping[str, Any]] = {"models": 3}

    lr: float = 0.05
    epochs: int = 50
    weight_decay: float = 1e-4
    batch_norm: str = "frozen"
    models: int = 27
    smoothing: float = 0.1
    scale: float | None = None
    keep: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("smoothing", 0 <= self.smoothing < 1, "0 to less than 1")
        most = len(self._every_setting())
        allowed = f"1 to {most}, as many as epochs, weight_decay and smoothing make different settings"
        self.require("models", 1 <= self.models <= most, allowed)
        self.require("keep", 0 < self.keep <= 1, "a number above 0, at most 1")

    def needs(self) -> Needs:
        """The forget set; validation data where the scale is to be found."""
        return replace(super().needs(), validation=self.scale is None)

    def passes(self) -> int:
        """Passes over the forget set, of all models together."""
        return self.models * self.epochs

    def settings(self) -> list[tuple[int, float, float]]:
        """(epochs, weight decay, label smoothing) of each model."""
        return self._every_setting()[: self.models]

    def _every_setting(self) -> list[tuple[int, float, float]]:
        """All settings that differ, in the order drawn from the seed."""
        every = list(itertools.product((1.0, 0.8, 1.2), (1.0, 0.5, 0.1), (0.0, 0.5, 1.0)))
        drawn = [every[i] for i in stream(self.seed, _PART).permutation(len(every))]
        return list(
            dict.fromkeys((round(e * self.epochs), d * self.weight_decay, s * self.smoothing) for e, d, s in drawn)
        )

    def run(self, task: Task) -> None:
        """Fine-tunes, merges and takes away."""
        start = {name: weight.detach().clone() for name, weight in task.named_parameters().items()}
        tuned = [self._tuned(task, *setting) for setting in self.settings()]
        away = consensus([{name: model[name] - first for name, first in start.items()} for model in tuned])
        scale = self._scale(task, start, away) if self.scale is None else self.scale
        _take(task, start, away, scale)
        share = sum(int((part != 0).sum()) for part in away.values()) / sum(part.numel() for part in away.values())
        task.report({"epoch": 1, "scale": scale, "consensus": share})

    def _tuned(self, task: Task, epochs: int, decay: float, smoothing: float) -> dict[str, Tensor]:
        model = copy.deepcopy(task.original)

        def objective(network: Network, batch: Batch) -> Tensor:
            return F.cross_entropy(network(batch.images), batch.labels, label_smoothing=smoothing)

        phase = self.phase(epochs=epochs, weight_decay=decay)
        self.fit(task, task.forget.batches, objective, phase=phase, model=model)
        return {name: weight.detach() for name, weight in model.named_parameters()}

    def _scale(self, task: Task, start: Mapping[str, Tensor], away: Mapping[str, Tensor]) -> float:
        least = self.keep * accuracy(task.original, task.validation)

        def keeps(scale: float) -> bool:
            _take(task, start, away, scale)
            return accuracy(task.model, task.validation) >= least

        if kept := list(itertools.takewhile(keeps, _SCALES)):
            return kept[-1]
        for scale in _SMALLER:
            if keeps(scale):
                task.notes.append(f"scale {scale:g}: {_SCALES[0]} keeps less than {self.keep} of the accuracy")
                return scale
        raise UnlearnError(
            f"keep: no scale from {_SMALLER[-1]:g} on keeps {self.keep} of the validation accuracy; lower keep, lr or "
            "epochs"
        )


def consensus(vectors: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Returns the mean of the vectors where all have one sign, else 0, by parameter name."""
    found = {}
    for name in vectors[0]:
        each = torch.stack([vector[name] for vector in vectors])
        agree = (each > 0).all(dim=0) | (each < 0).all(dim=0)
        found[name] = torch.where(agree, each.mean(dim=0), 0.0)
    return found


def _take(task: Task, start: Mapping[str, Tensor], away: Mapping[str, Tensor], scale: float) -> None:
    with torch.no_grad():
        for name, weight in task.named_parameters().items():
            weight.copy_(start[name] - scale * away[name])
