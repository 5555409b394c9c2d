"""Projected-gradient unlearning (Hoang, Rana, Gupta, Venkatesh, WACV 2024).

Gradient steps on the forget set, each projected out of the core gradient space of the retain data.
So to first order the outputs on retain data stay. Needs the forget set and stored second moments
only.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

from torch import nn

from ...core.batches import EpochCallback, Loader, device_of, kept
from ...core.errors import IncompatibleMoments, UnlearnError
from ...data.loader import ArrayLoader
from ...data.scenario import Split
from ...models.layers import deepest, projectable_layers
from ...models.probe import Probe, probe_with
from ...moments.basis import CRITERIA, CoreBasis
from ...moments.fisher import Fisher
from ...moments.moments import SecondMoments, second_moments
from ...training.graphs import Graphs
from ...training.loop import autocast
from ..base import Card, Choice, Method, Needs, Range, Ranges, UnlearnResult
from .released import Released
from .run import Run
from .settings import OPTIMIZERS, Settings

GAP_OF_CLASSES = "early_stop: 'gap' says nothing where whole classes are forgotten; use 'retain_drop' or None"


@dataclass(frozen=True)
class PGU(Settings, Method):
    """Projected-gradient unlearning.

    **Arguments:**

    - `gamma`: share of the spectrum that the core gradient space keeps, for all layers or by layer
        name (layers not named take 0.95). 1 freezes a layer.
    - `criterion`: `singular` or `energy` (see `CoreBasis.ranks`).
    - `lr`, `final_lr`, `epochs`: pass e = 0, 1, … uses lr·(final_lr/lr)^(e/epochs). Plain SGD
        without momentum.
    - `offset`, `entropy_weight` (w2): of the loss. `batch_size`.
    - `top_k`: only the k deepest layers are updated; None for all.
    - `early_stop`: `gap` ends once validation accuracy is above forget accuracy (data removal).
        `retain_drop` ends once accuracy on monitored data has fallen too far, and keeps the last
        epoch before that. None makes exactly `epochs` passes.
    - `seed`: of dropout and of the order. `details`: what few people change, see `Details`.
    - `released`: where the published release does otherwise, see `Released`.

    Raises `ValueError` for values that are not allowed.
    """

    name: ClassVar[str] = "pgu"
    access: ClassVar[str] = "moments"
    retired: ClassVar[Mapping[str, Any]] = {"objective": "forget", "compile": False}
    card: ClassVar[Card] = Card(
        "PGU",
        "W ← W − lr·(g − g M Mᵀ), g of −log(1 − (p_y − offset)) + w2·Σ p log p on D_f, M from G(D) − G(D_f)",
        "Hoang, Rana, Gupta, Venkatesh, Learn to Unlearn for Deep Neural Networks, WACV 2024",
        "one decomposition, then up to 100 passes over the forget set",
    )
    ranges: ClassVar[Ranges] = {
        "gamma": Range(0.7, 0.999),
        "criterion": Choice(CRITERIA),
        "lr": Range(0.005, 0.5, log=True),
        "final_lr": Choice((None, 0.001, 0.01)),
        "epochs": Choice((10, 30, 100)),
        "offset": Range(0.01, 0.2),
        "entropy_weight": Range(0.0, 1.0),
        "forget_weight": Range(0.1, 1.0),
        "batch_size": Choice((25, 64, 128, 256)),
        "top_k": Choice((None, 1, 2, 4)),
        "extra_rank": Choice((None, 0, 1, 2)),
        "optimizer": Choice(OPTIMIZERS),
        "shuffle": Choice((None, False, True)),
    }
    # What stops a run decides which data it sees; the others say how much is watched and written.
    fixed: ClassVar[frozenset[str]] = frozenset(
        {"early_stop", "drop_points", "watch", "stop_after", "monitor_every", "unit", "release_schedule"}
        | {item.name for item in fields(Released)}
    )
    examples: ClassVar[Mapping[str, Any]] = {"early_stop": None}
    # Unseen data say nothing of a removed class; the paper watches retain data there.
    for_classes: ClassVar[Mapping[str, Any]] = {"early_stop": "retain_drop"}

    def needs(self) -> Needs:
        """Moments; validation for the gap; retain data to watch (never to train on) for the retain
        drop.
        """
        watches = self.early_stop == "retain_drop"
        return Needs(
            access="moments",
            validation=self.early_stop == "gap",
            monitor=watches,
            watched=self.watched if watches else "",
            batch_size=self.batch_size,
            order=self.ways.order,
            clean_moments=self.ways.clean_moments,
            stride_one=self.ways.stride_one,
        )

    @classmethod
    def translate(cls, options: Mapping[str, Any]) -> tuple[type[Method], dict[str, Any]]:
        """Takes `objective:

        depoison`, an older spelling of `DepoisonPGU`, and drops `compile`, which is gone.
        """
        _, left = super().translate(options)
        objective = options.get("objective", "forget")
        if objective not in ("forget", "depoison"):
            raise ValueError(f"objective: {objective!r} is not allowed; allowed are forget, depoison")
        if objective == "forget":
            return cls, left
        # That spelling had the defaults of `PGU`, not those of depoisoning.
        older = {f.name: f.default for f in fields(Settings) if f.default is not MISSING}
        return DepoisonPGU, {**older, **left}

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
        """Returns an unlearned copy of `model`.

        **Arguments:**

        - `forget`: the forget set, with the labels to forget; read once.
        - `moments`: second moments of ALL training data (those of the forget set are computed and
            subtracted here). With `clean_moments` they are those of the data without the forget
            set. Or a `CoreBasis` of the retain data, already decomposed, so that a sweep shares it.
        - `validation`: for the early stop by gap. `monitor`: named loaders that are only evaluated.
        - `forget_classes`: their rows of the last linear layer are removed from the result.
        - `retain`, `fisher` and `graphs` are not used.

        **Returns:** history rows with `epoch`, `lr`, `loss`, `loss_forget`, `loss_entropy`,
        `forget_accuracy`, `validation_accuracy`, `<monitor>_accuracy`, `projected_fraction` and
        `seconds`. Epoch 0 is the model as given. The fraction is, by layer, the share of the
        squared gradient norm that stays in the residual space.

        **Raises:** `UnlearnTooFast` where the early stop falls on epoch 0; `IncompatibleMoments`;
        `MethodDidNothing`; `UnlearnError` where an input is missing.
        """
        self._check_inputs(validation, monitor, forget_classes)
        forget = kept(forget)  # read for its moments, and again to unlearn
        result = copy.deepcopy(model)
        names = self._moving_layers(result)
        looked = probe_with(result, forget) if self.top_k is not None or forget_classes else None
        if looked is not None:
            self.check_model(result, looked)
        if looked is not None and forget_classes:
            looked.require_head(result, num_classes)
        # A caller's autocast would round moments, spaces and steps that are to be float32.
        with autocast(device_of(model), "float32"):
            if forget_classes and isinstance(forget, ArrayLoader) and isinstance(moments, SecondMoments):
                # A whole class takes much of the moments with it: it is taken off as it was summed.
                subtracted: Loader = forget.replace(augment=moments.augment)
            else:
                subtracted = forget
            basis = self._basis(model, moments, subtracted, names)
            extra = self.details.extra_rank
            if extra is None:
                extra = int(bool(forget_classes) and self.criterion == "singular")
            sets = {**({} if validation is None else {"validation": validation}), **(monitor or {})}
            held = [name for name in names if name in basis.vectors]
            run = Run(self, result, held, basis, forget, sets, tuple(forget_classes), extra, on_epoch)
            if missing := [name for name in names if name not in held]:
                run.notes.append(
                    f"the moments do not hold {', '.join(missing[:5])}: frozen, as nothing shields their inputs"
                )
            return run.run()

    def check(self, split: Split) -> None:
        super().check(split)
        if self.early_stop == "gap" and split.kind == "classes":
            raise UnlearnError(GAP_OF_CLASSES)

    def check_model(self, model: nn.Module, looked: Probe) -> None:
        """Raises `UnlearnError` where the layers that would move are not those that run last."""
        names = self._moving_layers(model)
        if self.top_k is not None:
            looked.require_deepest(names, f"top_k: {self.top_k}")

    def _check_inputs(self, validation: Any, monitor: Any, forget_classes: tuple[int, ...]) -> None:
        if self.early_stop == "gap" and validation is None:
            raise UnlearnError(
                "validation: early_stop='gap' compares with validation accuracy; give its loader, or early_stop=None"
            )
        if self.early_stop == "gap" and forget_classes:
            raise UnlearnError(GAP_OF_CLASSES)
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
        names = list(layers)
        if self.top_k is not None:
            chosen = deepest(model, self.top_k, self.details.unit, "top_k")
            wanted = {name for depth in chosen for name in depth.layers}
            names = [name for name in names if name in wanted]
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
        """Returns the core gradient space of the retain data:

        G(D) − G(D_f) decomposed, unless that is given.
        """
        if moments is None:
            raise UnlearnError(
                "moments: PGU needs second moments of the training data; compute them with unlearn.second_moments when training ends"
            )
        if not isinstance(moments, SecondMoments | CoreBasis):
            raise IncompatibleMoments(f"moments: {type(moments).__name__} is neither SecondMoments nor CoreBasis")
        moments.check_model(model)
        moments.check_strides(model, self.ways.stride_one)
        layers = moments.vectors if isinstance(moments, CoreBasis) else moments.parts
        wanted = [name for name in names if name in layers]
        if not wanted:
            raise IncompatibleMoments(f"moments: they hold none of the layers {', '.join(names[:5])}")
        if isinstance(moments, CoreBasis):
            basis = moments
        else:
            held, own = moments.select(wanted), None
            if not self.ways.clean_moments:
                own = second_moments(model, forget, layers=held.parts, stride_one=held.stride_one)
            basis = held.decompose(minus=own)
        return basis.absolute() if self.ways.spectrum == "absolute" else basis


@dataclass(frozen=True)
class DepoisonPGU(PGU):
    """Projected-gradient unlearning of wrong labels: each sample is driven to its most likely other
    class.

    The second term of the loss is the entropy over the classes other than the label, minimised. A
    scale inside the core gradient space is learned too, with lr/10. The moments are those of the
    clean data with the poisoned model.

    **Arguments:** as of `PGU`; the defaults are the paper's for depoisoning.
    """

    name: ClassVar[str] = "pgu_depoison"
    retired: ClassVar[Mapping[str, Any]] = {"objective": "depoison", "compile": False}
    card: ClassVar[Card] = Card(
        "PGU, depoisoning",
        "as PGU, with H(p without y) minimised, and W_eff = W − W M Mᵀ + W M S Mᵀ with S learned at lr/10",
        "Hoang, Rana, Gupta, Venkatesh, Learn to Unlearn for Deep Neural Networks, WACV 2024",
        "one decomposition, then up to 100 passes over the forget set",
    )

    lr: float = 0.1
    final_lr: float | None = 0.05
    offset: float = 0.1
    early_stop: str | None = "retain_drop"

    @property
    def depoisons(self) -> bool:
        """Whether the loss and the update are those of depoisoning."""
        return True

    @classmethod
    def translate(cls, options: Mapping[str, Any]) -> tuple[type[Method], dict[str, Any]]:
        """Drops options that are gone."""
        return cls, {name: value for name, value in options.items() if name not in cls.retired}
