"""EU-k and CF-k (Goel et al., arXiv 2201.06640):

train the last layers anew, or on, without the forget set.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ..core.batches import EpochCallback, Loader, device_of
from ..core.errors import MethodDidNothing
from ..core.modes import NORMS, flags_kept, frozen_notes, modes_kept
from ..core.seeds import seeded
from ..data.loader import ArrayLoader
from ..models.classes import drop_classes
from ..models.layers import deepest
from ..models.probe import Probe, probe_with
from ..models.reset import reset
from ..moments.basis import CoreBasis
from ..moments.fisher import Fisher
from ..moments.moments import SecondMoments
from ..training.graphs import Graphs
from ..training.loop import Job, fit
from .base import TRAINING, Card, Choice, Ranges, UnlearnResult
from .cut import cut
from .features import FeatureLoader, compute, room_for_features
from .retrain import RetainTraining, with_accuracies

_PROBE = 3  # images that the halves of a model are tried with, in two sizes of batch


def trainable_modules(model: nn.Module, k: int, unit: str) -> list[nn.Module]:
    """The modules from the k-th last layer or block on, in definition order.

    Normalisation between and after them is included.

    **Arguments:** `k`, `unit` as of `unlearn.models.layers.deepest`.

    Raises `UnlearnError` where the model has fewer than `k`.
    """
    start = deepest(model, k, unit)[0].start
    names = [name for name, _ in model.named_modules()]
    return list(model.modules())[names.index(start) :]


@dataclass(frozen=True, kw_only=True)
class _LastLayers(RetainTraining):
    """What EU-k and CF-k share: the last layers alone are trained."""

    reinitialise: ClassVar[bool]
    ranges: ClassVar[Ranges] = {**TRAINING, "k": Choice((1, 2, 3, 4, 5))}
    fixed: ClassVar[frozenset[str]] = frozenset({"unit", "path"})
    examples: ClassVar[Mapping[str, Any]] = {"k": 2, "epochs": 6, "lr": 0.05, "augment": None}

    k: int
    unit: str = "layers"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"k: {self.k!r} is not allowed; give a number of layers, 1 or more")
        if self.unit not in ("layers", "blocks"):
            raise ValueError(f"unit: {self.unit!r} is not allowed; allowed are layers and blocks")

    def check_model(self, model: nn.Module, looked: Probe) -> None:
        """Raises `UnlearnError` where the last `k` layers defined are not those that run last."""
        active = trainable_modules(model, self.k, self.unit)
        inside = {id(part) for module in active for part in module.modules()}
        chosen = [name for name, part in model.named_modules() if id(part) in inside and name in looked.defined]
        looked.require_deepest(chosen, f"k: {self.k}")

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
        """Returns a copy of `model` whose last `k` layers were trained on the retain set.

        Batch normalisation ahead of those layers keeps its statistics; dropout is active as in
        training. Where `retain` is an `ArrayLoader`, it is batched, shuffled and augmented as the
        fields say. Without augmentation the frozen first part of the model is computed only once.
        Other loaders are taken as they come.

        **Arguments:** `forget`, `validation` and `monitor` are only evaluated. `moments` and
            `fisher` are not used. `graphs` as of `train`.

        **Returns:** history rows as of `train`, with `forget_accuracy`, `validation_accuracy` and
        one `<name>_accuracy` for each of `monitor`.

        Raises `UnlearnError` where there is no retain set or the model has fewer than `k` layers.
        """
        retain = self.batches(retain)
        result = copy.deepcopy(model)
        active = trainable_modules(result, self.k, self.unit)
        looked = probe_with(result, retain)
        if looked is not None:
            self.check_model(result, looked)
            if forget_classes:
                looked.require_head(result, num_classes)
        trained = {id(parameter) for module in active for parameter in module.parameters()}
        before = [parameter.detach().clone() for parameter in result.parameters() if id(parameter) in trained]
        if self.reinitialise:
            with seeded(self.seed):
                reset(active)
        evaluated = {"forget": forget, "validation": validation, **(monitor or {})}
        watched = {name: loader for name, loader in evaluated.items() if loader is not None}
        notes = frozen_notes(result, trained)
        changing: nn.Module = result
        frozen_norms = [
            module for module in result.modules() if isinstance(module, NORMS) and not any(module is a for a in active)
        ]

        def set_mode() -> None:
            result.train()
            for norm in frozen_norms:
                norm.eval()

        with modes_kept(result), flags_kept(result):
            for parameter in result.parameters():
                parameter.requires_grad_(id(parameter) in trained)
            if isinstance(retain, ArrayLoader) and retain.augment is None:
                set_mode()
                moving = [parameter for parameter in result.parameters() if id(parameter) in trained]
                changing, retain, watched, told = self._compute_prefix(result, moving, retain, watched)
                notes += told
            report = with_accuracies(changing, watched, on_epoch)
            job = Job(changing, retain, self, self.seed, set_mode, report)
            history = fit(job, graphs)
            notes += job.notes
        after = [parameter for parameter in result.parameters() if id(parameter) in trained]
        if all(torch.equal(old, new) for old, new in zip(before, after, strict=True)):
            raise MethodDidNothing(
                f"epochs: {self.name} left every weight as it was in {self.epochs} epochs; raise them"
            )
        return UnlearnResult(drop_classes(result, tuple(forget_classes)), history, None, notes)

    def _compute_prefix(
        self, model: nn.Module, moving: list[nn.Parameter], retain: ArrayLoader, watched: dict[str, Loader]
    ) -> tuple[nn.Module, Loader, dict[str, Loader], list[str]]:
        """Replaces images by what the frozen first part makes of them:

        the part left to train, and loaders for it.
        """
        device = device_of(model)
        images = retain.normalise(retain.images[:_PROBE])
        parts = cut(model, moving, images) if len(images) == _PROBE else None
        if parts is None:
            return model, retain, watched, []
        prefix = parts.prefix
        example, _ = compute(prefix, [(retain.normalise(retain.images[:1]), retain.labels[:1])], device, self.precision)
        needed = retain.dataset_size * example.numel() * example.element_size()
        if needed > room_for_features(device):
            note = f"the frozen part was computed in every epoch: its outputs would take {needed / 2**30:.1f} GiB"
            return model, retain, watched, [note]

        def features(loader: Loader, shuffle: bool) -> FeatureLoader:
            outputs, labels = compute(prefix, loader, device, self.precision)
            return FeatureLoader(outputs, labels, batch_size=self.batch_size, shuffle=shuffle, seed=self.seed)

        stored = {name: features(loader, shuffle=False) for name, loader in watched.items()}
        retained = features(retain.replace(shuffle=False), shuffle=True)
        return parts.suffix, retained, {**stored}, []


@dataclass(frozen=True, kw_only=True)
class EUk(_LastLayers):
    """EU-k, exact unlearning of the last `k` layers: they are initialised again and trained on the
    retain set.

    **Arguments:** `k` layers (or blocks, by `unit`) from the end. `seed` is of their
    initialisation, of the order of the data and of dropout. The others are as in `Training`.

    Raises `ValueError` for values that are not allowed.
    """

    name: ClassVar[str] = "eu_k"
    card: ClassVar[Card] = Card(
        "EU-k",
        "initialise the last k layers again and train them on D_r with the original recipe",
        "Goel, Prabhu, Sanyal, Lim, Torr, Kumaraguru, Towards Adversarial Evaluation of Machine Unlearning, 2201.06640",
        "as many passes over the retain set as training made, the frozen part computed once where nothing is augmented",
    )
    reinitialise: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class CFk(_LastLayers):
    """CF-k, catastrophic forgetting: as `EUk`, but the last `k` layers go on from the weights that
    they have.

    **Arguments:** as `EUk`.
    """

    name: ClassVar[str] = "cf_k"
    card: ClassVar[Card] = Card(
        "CF-k",
        "train the last k layers on, on D_r with the original recipe",
        "Goel, Prabhu, Sanyal, Lim, Torr, Kumaraguru, Towards Adversarial Evaluation of Machine Unlearning, 2201.06640",
        "as many passes over the retain set as training made, the frozen part computed once where nothing is augmented",
    )
    reinitialise: ClassVar[bool] = False
