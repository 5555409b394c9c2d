"""Retraining from scratch on the retain set:

the standard that every other method is held against.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import nn

from ..core.batches import EpochCallback, Loader, read_again
from ..core.errors import UnlearnError
from ..core.modes import flags_kept, frozen_notes, modes_kept
from ..core.seeds import check_seed, seeded
from ..data.loader import ArrayLoader
from ..models.classes import drop_classes
from ..models.probe import probe_with
from ..models.reset import reset
from ..moments.basis import CoreBasis
from ..moments.fisher import Fisher
from ..moments.moments import SecondMoments
from ..training.graphs import Graphs
from ..training.predict import accuracy
from ..training.recipe import Training
from ..training.train import train
from .base import Card, Method, Needs, UnlearnResult


@dataclass(frozen=True, kw_only=True)
class RetainTraining(Training, Method):
    """What Retrain, EU-k and CF-k share: they train on the retain set with the fields of
    `Training`."""

    name: ClassVar[str]
    access: ClassVar[str] = "retain"
    inherits: ClassVar[frozenset[str]] = frozenset(item.name for item in fields(Training))
    section: ClassVar[str] = ""

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)

    def needs(self) -> Needs:
        """The retain set."""
        return Needs(access="retain", graphs=True, batch_size=self.batch_size, augment=self.augment)

    def passes(self) -> int:
        """Passes over the retain set."""
        return self.epochs

    def batches(self, retain: Loader | None) -> Loader:
        """Returns the retain set as the fields say: batched, shuffled and augmented, where it is an
        `ArrayLoader`.

        Raises `UnlearnError` where there is none.
        """
        if retain is None:
            raise UnlearnError(f"retain: {self.name} trains on the retain set; give its loader")
        if isinstance(retain, ArrayLoader):
            return retain.replace(batch_size=self.batch_size, augment=self.augment, shuffle=True, seed=self.seed)
        read_again(retain, "retain", "training reads it in every epoch")
        return retain


def with_accuracies(
    model: nn.Module, loaders: Mapping[str, Loader | None], on_epoch: EpochCallback | None
) -> EpochCallback:
    """Returns what adds `<name>_accuracy` of each loader to a row of the history."""

    def report(row: dict[str, Any]) -> None:
        row.update({f"{name}_accuracy": accuracy(model, each) for name, each in loaders.items() if each is not None})
        if on_epoch is not None:
            on_epoch(row)

    return report


@dataclass(frozen=True, kw_only=True)
class Retrain(RetainTraining):
    """Initialises every parameter again and trains on the retain set with the fields of `Training`.

    **Arguments:** `seed` of the initialisation, of the order of the data and of dropout; the others
    as in `Training`.

    Raises `ValueError` for values that are not allowed.
    """

    name: ClassVar[str] = "retrain"
    selectable: ClassVar[bool] = False  # every run has it as a row of its own
    examples: ClassVar[Mapping[str, Any]] = {"epochs": 12, "lr": 0.05, "augment": None, "batch_size": 32}
    card: ClassVar[Card] = Card(
        "Retrain",
        "initialise every parameter again and train on D_r with the original recipe",
        passes="as many passes over the retain set as training made",
    )
    # It is what every other method is held against: with the recipe of the originals, and no other.
    fixed: ClassVar[frozenset[str]] = RetainTraining.inherits

    def unlearn(
        self,
        model: nn.Module,
        *,
        forget: Loader,
        retain: Loader | None = None,
        moments: SecondMoments | CoreBasis | None = None,
        fisher: Fisher | None = None,
        validation: Loader | None = None,
        num_classes: int | None = None,
        forget_classes: tuple[int, ...] = (),
        monitor: Mapping[str, Loader] | None = None,
        on_epoch: EpochCallback | None = None,
        graphs: Graphs | None = None,
    ) -> UnlearnResult:
        """Returns a model of the architecture of `model`, trained anew on `retain`; nothing of its
        weights is used.

        Where `retain` is an `ArrayLoader`, it is batched, shuffled and augmented as the fields say;
        other loaders are taken as they come. `forget`, `validation` and `monitor` are only
        evaluated. `moments` and `fisher` are not used. `graphs` as of `train`. Frozen weights are
        trained, too, and a note says so.

        **Returns:** history rows as of `train`, with `forget_accuracy`, `validation_accuracy` and
        one `<name>_accuracy` for each of `monitor`.

        Raises `UnlearnError` where there is no retain set, `ValueError` where a module cannot be
        initialised again.
        """
        batches = self.batches(retain)
        result = copy.deepcopy(model)
        if forget_classes and (looked := probe_with(result, batches)) is not None:
            looked.require_head(result, num_classes)
        report = with_accuracies(result, {"forget": forget, "validation": validation, **(monitor or {})}, on_epoch)
        notes = frozen_notes(result, {id(parameter) for parameter in result.parameters()})
        with modes_kept(result), flags_kept(result):
            result.requires_grad_(True)  # frozen weights may have been trained on the forget set
            with seeded(self.seed):
                reset(result.modules())
            history = train(result, batches, self, seed=self.seed, on_epoch=report, graphs=graphs)
        return UnlearnResult(drop_classes(result, tuple(forget_classes)), history, None, notes)
