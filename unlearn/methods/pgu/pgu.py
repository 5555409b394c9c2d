"""Projected-gradient unlearning (Hoang, Rana, Gupta, Venkatesh, WACV 2024).

Gradient steps on the forget set, each projected out of the core gradient space of the retain data, so that to first
order the outputs on retain data stay. Needs the forget set and stored second moments only.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from ...core.batches import EpochCallback, Loader, device_of
from ...core.errors import IncompatibleMoments, UnlearnError
from ...core.seeds import check_seed
from ...models.layers import deepest_layers, projectable_layers
from ...moments.basis import CRITERIA, CoreBasis
from ...moments.moments import SecondMoments, second_moments
from ...training.loop import autocast
from ..base import UnlearnResult
from .losses import TERMS
from .run import Run

EARLY_STOPS = ("gap", "retain_drop", None)
OPTIMIZERS = ("sgd", "momentum", "adam")


@dataclass(frozen=True)
class PGU:
    """Projected-gradient unlearning.

    **Arguments:**

    - `gamma`: share of the spectrum that the core gradient space keeps, for all layers or by layer name (layers not
        named take 0.95). 1 freezes a layer.
    - `criterion`: `singular` or `energy` (see `CoreBasis.ranks`); `extra_rank` is added to k. None: 1 where whole
        classes are forgotten by the singular criterion, as the published release does, else 0.
    - `lr`, `final_lr`, `epochs`: pass e = 0, 1, … uses lr·(final_lr/lr)^(e/epochs). Plain SGD without momentum.
    - `stop_after`: ends after this many passes of the schedule that `epochs` sets: what early stopping looks at, or 0 for
        a model whose forgotten classes are cut off and nothing else.
    - `optimizer`: `sgd` as published, `momentum` (0.9), or `adam`, whose step is projected once more, since dividing each
        weight's step by its own size leads out of the residual space.
    - `release_schedule`: counts passes from 1, as the published release does, whose epoch 0 only evaluates.
    - `offset`, `forget_weight` (w1), `entropy_weight` (w2): of the loss.
    - `objective`: `forget`, or `depoison`: the second term drives each sample to its most likely other class, and a
        scale inside the core space is learned with lr/10. The paper's values: offset 0.1, lr 0.1 → 0.05,
        `early_stop="retain_drop"`; moments of the clean data with the poisoned model.
    - `batch_size`; `shuffle`: None shuffles where whole classes are forgotten.
    - `top_k`: only the k deepest layers (or blocks, by `unit`) are updated; None for all.
    - `early_stop`: `gap` (validation accuracy above forget accuracy; data removal), `retain_drop` (accuracy on the
        monitored set `watch` has fallen by more than `drop_points`; the last epoch before that is kept), None for
        exactly `epochs` passes. `watch` None is `retain`, in depoisoning `test`.
    - `monitor_every`: epochs between evaluations (of the forget set, validation data and the loaders given for
        monitoring) that no early stop needs. The last epoch is always evaluated.
    - `precision`: `float32` or `bfloat16` autocast. `compile`: by `torch.compile`, which takes longer than a few
        hundred steps save. `seed`: of dropout and of the order.

    Raises `ValueError` for values that are not allowed.
    """

    name: ClassVar[str] = "pgu"
    access: ClassVar[str] = "moments"

    gamma: float | dict[str, float] = 0.95
    criterion: str = "singular"
    lr: float = 0.05
    final_lr: float | None = 0.01
    epochs: int = 100
    offset: float = 0.05
    forget_weight: float = 1.0
    entropy_weight: float = 0.2
    objective: str = "forget"
    batch_size: int = 128
    shuffle: bool | None = None
    top_k: int | None = None
    unit: str = "layers"
    early_stop: str | None = "gap"
    drop_points: float = 5.0
    watch: str | None = None
    monitor_every: int = 1
    extra_rank: int | None = None
    stop_after: int | None = None
    optimizer: str = "sgd"
    release_schedule: bool = False
    precision: str = "float32"
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        choices: dict[str, tuple[Any, ...]] = {
            "criterion": CRITERIA,
            "objective": tuple(TERMS),
            "unit": ("layers", "blocks"),
            "early_stop": EARLY_STOPS,
            "optimizer": OPTIMIZERS,
            "precision": ("float32", "bfloat16"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                shown = ", ".join("null" if choice is None else str(choice) for choice in allowed)
                raise ValueError(f"{name}: {getattr(self, name)!r} is not allowed; allowed are {shown}")
        gammas = self.gamma if isinstance(self.gamma, Mapping) else {"": self.gamma}
        for layer, gamma in gammas.items():
            if not _is_number(gamma) or not 0.0 <= gamma <= 1.0:
                shown = f"{{{layer}: {gamma!r}}}" if layer else repr(gamma)
                raise ValueError(f"gamma: {shown} is not allowed; give 0 to 1")
        for name, low, high in (
            ("offset", 1e-6, 1.0),
            ("forget_weight", 0.0, 1e6),
            ("entropy_weight", 0.0, 1e6),
            ("drop_points", 0.0, 100.0),
        ):
            value = getattr(self, name)
            if not _is_number(value) or not low <= value <= high:
                raise ValueError(f"{name}: {value!r} is not allowed; give a number from {low:g} to {high:g}")
        for name in ("lr",) if self.final_lr is None else ("lr", "final_lr"):
            if not _is_number(getattr(self, name)) or getattr(self, name) <= 0.0:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not allowed; give a number above 0")
        least_of = {"epochs": 0, "batch_size": 1, "monitor_every": 1, "extra_rank": 0, "top_k": 1, "stop_after": 0}
        for name, least in least_of.items():
            value = getattr(self, name)
            if value is None and name in ("extra_rank", "top_k", "stop_after"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: {value!r} is not allowed; give an integer of {least} or more")
        check_seed(self.seed)

    def requires(self) -> frozenset[str]:
        """Moments; validation for the gap; retain data to watch (never to train on) for the retain drop."""
        stops = {"gap": {"validation"}, "retain_drop": {"monitor"}}
        return frozenset({"moments"} | stops.get(self.early_stop or "", set()))

    @property
    def passes(self) -> int:
        """The most passes over the forget set."""
        return self.epochs if self.stop_after is None else min(self.epochs, self.stop_after)

    def rate(self, step: int) -> float:
        """The learning rate of pass `step` = 0, 1, …"""
        if self.final_lr is None or self.epochs == 0:
            return self.lr
        exponent = (step + 1 if self.release_schedule else step) / self.epochs
        return float(self.lr * (self.final_lr / self.lr) ** exponent)

    def unlearn(
        self,
        model: nn.Module,
        *,
        forget: Loader,
        retain: Loader | None = None,
        moments: SecondMoments | CoreBasis | None = None,
        validation: Loader | None = None,
        num_classes: int | None = None,
        forget_classes: tuple[int, ...] = (),
        monitor: Mapping[str, Loader] | None = None,
        on_epoch: EpochCallback | None = None,
    ) -> UnlearnResult:
        """Returns an unlearned copy of `model`.

        **Arguments:**

        - `forget`: the forget set, with the labels to forget; read once.
        - `moments`: second moments of ALL training data (those of the forget set are computed and subtracted here), or a
            `CoreBasis` of the retain data already decomposed, so that a sweep shares it.
        - `validation`: for the early stop by gap. `monitor`: named loaders that are only evaluated.
        - `forget_classes`: their rows of the last linear layer are removed from the result.
        - `retain` is not used.

        **Returns:** history rows with `epoch` (0 is the model as given), `lr`, `loss`, `loss_forget`, `loss_entropy`,
        `forget_accuracy`, `validation_accuracy`, `<monitor>_accuracy`, `projected_fraction` (layer → share of the
        squared gradient norm that stays in the residual space) and `seconds`.

        **Raises:** `UnlearnTooFast` where the early stop falls on epoch 0; `IncompatibleMoments`; `MethodDidNothing`;
        `UnlearnError` where an input is missing.
        """
        self._check_inputs(validation, monitor, forget_classes)
        result = copy.deepcopy(model)
        names = self._moving_layers(result)
        # A caller's autocast would round moments, spaces and steps that are to be float32.
        with autocast(device_of(model), "float32"):
            return self._run(model, result, names, forget, moments, validation, forget_classes, monitor, on_epoch)

    def _run(
        self,
        model: nn.Module,
        result: nn.Module,
        names: list[str],
        forget: Loader,
        moments: SecondMoments | CoreBasis | None,
        validation: Loader | None,
        forget_classes: tuple[int, ...],
        monitor: Mapping[str, Loader] | None,
        on_epoch: EpochCallback | None,
    ) -> UnlearnResult:
        basis = self._basis(model, moments, forget, names)
        missing = [name for name in names if name not in basis.vectors]
        extra = (
            int(bool(forget_classes) and self.criterion == "singular") if self.extra_rank is None else self.extra_rank
        )
        sets = {**({} if validation is None else {"validation": validation}), **(monitor or {})}
        held = [name for name in names if name in basis.vectors]
        run = Run(self, result, held, basis, forget, sets, tuple(forget_classes), extra, on_epoch)
        if missing:
            run.notes.append(
                f"the moments do not hold {', '.join(missing[:5])}: frozen, as nothing shields their inputs"
            )
        return run.run()

    @property
    def watched(self) -> str:
        """The monitored set whose accuracy `retain_drop` watches."""
        return self.watch or ("test" if self.objective == "depoison" else "retain")

    def gamma_of(self, layer: str) -> float:
        """Returns γ of a layer."""
        return self.gamma.get(layer, 0.95) if isinstance(self.gamma, Mapping) else self.gamma

    def _check_inputs(self, validation: Any, monitor: Any, forget_classes: tuple[int, ...]) -> None:
        if self.early_stop == "gap" and validation is None:
            raise UnlearnError(
                "validation: early_stop='gap' compares with validation accuracy; give its loader, or early_stop=None"
            )
        if self.early_stop == "gap" and forget_classes:
            raise UnlearnError(
                "early_stop: 'gap' says nothing where whole classes are forgotten; use 'retain_drop' or None"
            )
        if self.early_stop == "retain_drop" and self.watched not in (monitor or {}):
            raise UnlearnError(
                f"monitor: early_stop='retain_drop' watches {self.watched} accuracy; give monitor={{'{self.watched}': loader}}, or early_stop=None"
            )

    def _moving_layers(self, model: nn.Module) -> list[str]:
        """Returns the names of the layers that top-k leaves to move."""
        layers = projectable_layers(model)
        if isinstance(self.gamma, Mapping):
            unknown = [name for name in self.gamma if name not in layers]
            if unknown:
                raise UnlearnError(f"gamma: {unknown[0]!r} is no layer of the model; it has {', '.join(layers)}")
        try:
            names = list(layers) if self.top_k is None else deepest_layers(model, self.top_k, self.unit)
        except ValueError as error:
            raise UnlearnError(str(error)) from None
        if not names:
            raise UnlearnError("model: it has no convolution or linear layer to unlearn in")
        owners: dict[int, str] = {}
        for name in names:
            weight = layers[name].weight
            if not isinstance(weight, nn.Parameter):
                raise UnlearnError(
                    f"model: the weight of {name} is computed from others; fold its parametrisation first"
                )
            if id(weight) in owners:
                raise UnlearnError(
                    f"model: {owners[id(weight)]} and {name} share one weight, which two projections would move; copy it, or freeze them by top_k"
                )
            owners[id(weight)] = name
        return names

    def _basis(self, model: nn.Module, moments: Any, forget: Loader, names: list[str]) -> CoreBasis:
        """Returns the core gradient space of the retain data: G(D) − G(D_f) decomposed, unless that is given."""
        if moments is None:
            raise UnlearnError(
                "moments: PGU needs second moments of the training data; compute them with unlearn.second_moments when training ends"
            )
        if not isinstance(moments, SecondMoments | CoreBasis):
            raise IncompatibleMoments(f"moments: {type(moments).__name__} is neither SecondMoments nor CoreBasis")
        moments.check_model(model)
        layers = moments.vectors if isinstance(moments, CoreBasis) else moments.parts
        wanted = [name for name in names if name in layers]
        if not wanted:
            raise IncompatibleMoments(f"moments: they hold none of the layers {', '.join(names[:5])}")
        if isinstance(moments, CoreBasis):
            return moments
        held = moments.select(wanted)
        return CoreBasis.from_moments(held, minus=second_moments(model, forget, layers=held.parts))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
