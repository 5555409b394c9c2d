"""Projected-gradient unlearning (Hoang, Rana, Gupta, Venkatesh, WACV 2024).

Gradient steps on the forget set, each projected out of the core gradient space of the retain data, so that to first
order the outputs on retain data stay. Needs the forget set and stored second moments only.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..classes import drop_classes
from ..fit import Loader, autocast, device_of
from ..layers import deepest_layers, projectable_layers
from ..moments import SecondMoments, digest_model, second_moments
from ..projection import CRITERIA, CoreBasis, Projector
from ..seeds import check_seed, seeded, stream
from ..training import accuracy
from .base import EpochCallback, IncompatibleMoments, MethodDidNothing, UnlearnError, UnlearnResult, UnlearnTooFast
from .features import FeatureLoader, chain_of, compute, frozen_length, room_for_features
from .pgu_losses import TERMS

EARLY_STOPS = ("gap", "retain_drop", None)


@dataclass(frozen=True)
class PGU:
    """Projected-gradient unlearning.

    **Arguments:**

    - `gamma`: share of the spectrum that the core gradient space keeps, for all layers or by layer name (layers not
        named take 0.95). 1 freezes a layer.
    - `criterion`: `singular` or `energy` (see `CoreBasis.ranks`); `extra_rank` is added to k (the release adds 1 in
        class removal).
    - `lr`, `final_lr`, `epochs`: pass e = 0, 1, … uses lr·(final_lr/lr)^(e/epochs). Plain SGD without momentum.
    - `release_schedule`: counts passes from 1, as the published release does, whose epoch 0 only evaluates.
    - `offset`, `forget_weight` (w1), `entropy_weight` (w2): of the loss.
    - `objective`: `forget`, or `depoison`: the second term drives each sample to its most likely other class, and a
        scale inside the core space is learned with lr/10.
    - `batch_size`; `shuffle`: None shuffles where whole classes are forgotten.
    - `top_k`: only the k deepest layers (or blocks, by `unit`) are updated; None for all.
    - `early_stop`: `gap` (validation accuracy above forget accuracy; data removal), `retain_drop` (retain accuracy has
        fallen by more than `drop_points`), None for exactly `epochs` passes.
    - `monitor_every`: epochs between evaluations of the loaders given for monitoring.
    - `precision`: `float32` or `bfloat16` autocast. `seed`: of dropout and of the order.

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
    monitor_every: int = 1
    extra_rank: int = 0
    release_schedule: bool = False
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        choices: dict[str, tuple[Any, ...]] = {
            "criterion": CRITERIA,
            "objective": tuple(TERMS),
            "unit": ("layers", "blocks"),
            "early_stop": EARLY_STOPS,
            "precision": ("float32", "bfloat16"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                shown = ", ".join("null" if choice is None else str(choice) for choice in allowed)
                raise ValueError(f"{name}: {getattr(self, name)!r} is not allowed; allowed are {shown}")
        gammas = self.gamma if isinstance(self.gamma, Mapping) else {"": self.gamma}
        for layer, gamma in gammas.items():
            if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0.0 <= gamma <= 1.0:
                shown = f"{{{layer}: {gamma!r}}}" if layer else repr(gamma)
                raise ValueError(f"gamma: {shown} is not allowed; give 0 to 1")
        for name, low, high in (
            ("lr", 0.0, math.inf),
            ("offset", 1e-6, 1.0),
            ("forget_weight", 0.0, math.inf),
            ("entropy_weight", 0.0, math.inf),
            ("drop_points", 0.0, 100.0),
        ):
            if not low <= getattr(self, name) <= high or getattr(self, name) == math.inf:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not allowed; give {low:g} to {high:g}")
        if self.lr == 0.0 or (self.final_lr is not None and not 0.0 < self.final_lr < math.inf):
            raise ValueError(
                f"{'lr' if self.lr == 0.0 else 'final_lr'}: {self.lr if self.lr == 0.0 else self.final_lr!r} is not allowed; give a number above 0"
            )
        for name, least in (("epochs", 0), ("batch_size", 1), ("monitor_every", 1), ("extra_rank", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: {value!r} is not allowed; give an integer of {least} or more")
        if self.top_k is not None and (isinstance(self.top_k, bool) or self.top_k < 1):
            raise ValueError(f"top_k: {self.top_k!r} is not allowed; give 1 or more, or null for all layers")
        check_seed(self.seed)

    def requires(self) -> frozenset[str]:
        """Moments; validation for the gap; retain data to watch (never to train on) for the retain drop."""
        stops = {"gap": {"validation"}, "retain_drop": {"monitor"}}
        return frozenset({"moments"} | stops.get(self.early_stop or "", set()))

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
        self._check_inputs(moments, validation, monitor, forget_classes)
        result = copy.deepcopy(model)
        names = list(projectable_layers(result)) if self.top_k is None else _top(result, self.top_k, self.unit)
        basis = self._basis(model, moments, forget, names)
        return _Run(self, result, names, basis, forget, validation, monitor or {}, forget_classes, on_epoch).run()

    def _check_inputs(self, moments: Any, validation: Any, monitor: Any, forget_classes: tuple[int, ...]) -> None:
        if moments is None:
            raise UnlearnError(
                "moments: PGU needs second moments of the training data; compute them with unlearn.second_moments when training ends"
            )
        if self.early_stop == "gap" and validation is None:
            raise UnlearnError(
                "validation: early_stop='gap' compares with validation accuracy; give its loader, or early_stop=None"
            )
        if self.early_stop == "gap" and forget_classes:
            raise UnlearnError(
                "early_stop: 'gap' says nothing where whole classes are forgotten; use 'retain_drop' or None"
            )
        if self.early_stop == "retain_drop" and "retain" not in (monitor or {}):
            raise UnlearnError(
                "monitor: early_stop='retain_drop' watches retain accuracy; give monitor={'retain': loader}, or early_stop=None"
            )

    def _basis(
        self, model: nn.Module, moments: SecondMoments | CoreBasis | None, forget: Loader, names: list[str]
    ) -> CoreBasis:
        if isinstance(moments, SecondMoments):
            moments.check_model(model)
            missing = [name for name in names if name not in moments.matrices]
            if missing:
                raise IncompatibleMoments(f"moments: they lack the layers {', '.join(missing[:5])}")
            kept = {name: moments.matrices[name] for name in names}
            wanted = SecondMoments(kept, moments.count, moments.model_digest, moments.data_digest)
            return (wanted - second_moments(model, forget, layers=names)).decompose()
        if not isinstance(moments, CoreBasis):
            raise IncompatibleMoments(f"moments: {type(moments).__name__} is neither SecondMoments nor CoreBasis")
        if moments.model_digest != digest_model(model):
            raise IncompatibleMoments("moments: this basis was computed with other weights than this model's")
        missing = [name for name in names if name not in moments.vectors]
        if missing:
            raise IncompatibleMoments(f"moments: this basis lacks the layers {', '.join(missing[:5])}")
        return moments

    def gamma_of(self, layer: str) -> float:
        """Returns γ of a layer."""
        return self.gamma.get(layer, 0.95) if isinstance(self.gamma, Mapping) else self.gamma


def _top(model: nn.Module, k: int, unit: str) -> list[str]:
    try:
        return deepest_layers(model, k, unit)
    except ValueError as error:
        raise UnlearnError(str(error)) from None


class _Run:
    """One unlearning, from the copied model to the result."""

    def __init__(
        self,
        method: PGU,
        model: nn.Module,
        names: list[str],
        basis: CoreBasis,
        forget: Loader,
        validation: Loader | None,
        monitor: Mapping[str, Loader],
        forget_classes: tuple[int, ...],
        on_epoch: EpochCallback | None,
    ):
        self.method, self.model, self.forget_classes, self.on_epoch = method, model, forget_classes, on_epoch
        self.device = device_of(model)
        layers = projectable_layers(model)
        if isinstance(method.gamma, Mapping):
            unknown = [name for name in method.gamma if name not in layers]
            if unknown:
                raise UnlearnError(f"gamma: {unknown[0]!r} is no layer of the model; it has {', '.join(layers)}")
        self.weights = {name: layers[name].weight for name in names}
        self.projectors: dict[str, Projector] = {}
        self.cores: dict[str, tuple[Tensor, Tensor]] = {}
        for name in names:
            options = (name, method.gamma_of(name), method.criterion, method.extra_rank)
            self.projectors[name] = basis.projector(*options).to(self.device)
            if method.objective == "depoison":
                self.cores[name] = self._core(self.weights[name], basis.core(*options).to(self.device))
        self.active = {name: weight for name, weight in self.weights.items() if self._moves(name)}
        self.notes = list(basis.warnings)
        images, labels = compute(nn.Identity(), forget, self.device, "float32")
        sets: dict[str, Loader] = {"forget": [(images, labels)]}
        sets |= {} if validation is None else {"validation": validation}
        sets |= dict(monitor)
        self.changing, self.images, self.labels, self.sets = self._frozen_prefix(images, labels, sets)

    def _core(self, weight: Tensor, core: Tensor) -> tuple[Tensor, Tensor]:
        """Returns M and A = W M, which no residual step changes: the scale's gradient is Aᵀ G M for all epochs."""
        grouped = weight.detach().reshape(core.shape[0], -1, core.shape[1])
        return core, torch.bmm(grouped, core)

    def _moves(self, name: str) -> bool:
        projector = self.projectors[name]
        frozen = projector.factor is None and projector.complement
        return not frozen or (
            name in self.cores and self.cores[name][0].shape[2] > 0 and self.method.gamma_of(name) < 1.0
        )

    def _frozen_prefix(
        self, images: Tensor, labels: Tensor, sets: dict[str, Loader]
    ) -> tuple[nn.Module, Tensor, Tensor, dict[str, Loader]]:
        """Computes what the frozen first part of the model makes of each set once, where the model is a known chain."""
        chain = chain_of(self.model)
        modules = [module for name, module in projectable_layers(self.model).items() if name in self.active]
        length = frozen_length(chain, modules) if chain and modules else 0
        if not chain or length == 0:
            return self.model, images, labels, self._split(sets, images, labels)
        prefix, precision = nn.Sequential(*chain[:length]), self.method.precision
        example, _ = compute(prefix, [(images[:1], labels[:1])], self.device, precision)
        sizes = [loader.dataset_size for loader in sets.values() if hasattr(loader, "dataset_size")]
        if (len(images) + sum(sizes)) * example.numel() * example.element_size() > room_for_features(self.device):
            return self.model, images, labels, self._split(sets, images, labels)
        batches = [(images[i : i + 512], labels[i : i + 512]) for i in range(0, len(images), 512)]
        features, _ = compute(prefix, batches, self.device, precision)
        stored: dict[str, Loader] = {}
        for name, loader in sets.items():
            values, classes = (
                (features, labels) if name == "forget" else compute(prefix, loader, self.device, precision)
            )
            stored[name] = FeatureLoader(values, classes, batch_size=512, shuffle=False, seed=0)
        return nn.Sequential(*chain[length:]), features, labels, stored

    def _split(self, sets: dict[str, Loader], images: Tensor, labels: Tensor) -> dict[str, Loader]:
        size = 512
        batches = [(images[i : i + size], labels[i : i + size]) for i in range(0, len(images), size)]
        return {**sets, "forget": batches}

    def run(self) -> UnlearnResult:
        method = self.method
        required = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        modes = [(module, module.training) for module in self.model.modules()]
        moving = {id(weight) for weight in self.active.values()}
        for parameter, _ in required:
            parameter.requires_grad_(id(parameter) in moving)
        before = {name: weight.detach().clone() for name, weight in self.active.items()}
        try:
            with seeded(method.seed):
                history, stopped_at = self._epochs()
        finally:
            for parameter, flag in required:
                parameter.requires_grad_(flag)
            for module, mode in modes:
                module.training = mode
        self._check_moved(before)
        return UnlearnResult(drop_classes(self.model, tuple(self.forget_classes)), history, stopped_at, self.notes)

    def _epochs(self) -> tuple[list[dict[str, Any]], int | None]:
        method = self.method
        history = [self._report(self._evaluate(0) | {"epoch": 0, "seconds": 0.0})]
        if method.early_stop == "gap" and _gap(history[0]) > 0:
            raise UnlearnError(
                f"early_stop: 'gap' is passed before the first step (forget accuracy {history[0]['forget_accuracy']:.3f}, validation accuracy "
                f"{history[0]['validation_accuracy']:.3f}): the model does not know the forget set better than unseen data; use early_stop=None"
            )
        for step in range(method.epochs):
            previous = {name: weight.detach().clone() for name, weight in self.active.items()}
            started = time.perf_counter()
            row: dict[str, Any] = {"epoch": step + 1, "lr": method.rate(step), **self._pass(step)}
            row |= self._evaluate(step + 1)
            row["seconds"] = time.perf_counter() - started
            history.append(self._report(row))
            if not math.isfinite(row["loss"]):
                raise UnlearnError(f"lr: the loss is no longer finite in epoch {step + 1}; lower lr ({method.lr:g})")
            if method.early_stop == "gap" and _gap(row) > 0:
                return history, self._choose(history, previous)
            if method.early_stop == "retain_drop" and self._dropped(history):
                self._restore(previous)
                if step == 0:
                    raise UnlearnTooFast(
                        self._too_fast("retain accuracy fell by more than drop_points within one pass")
                    )
                return history, step
        if method.early_stop == "gap" and method.epochs:
            self.notes.append(
                f"the early stop was not reached in {method.epochs} epochs: forget accuracy is still {-_gap(history[-1]):.3f} above validation accuracy; "
                "raise lr or epochs, or lower gamma"
            )
        return history, None

    def _choose(self, history: list[dict[str, Any]], previous: dict[str, Tensor]) -> int:
        """Keeps this or the previous epoch, whichever gap is nearer to nought."""
        last = len(history) - 1
        if abs(_gap(history[-1])) <= abs(_gap(history[-2])):
            return last
        if last - 1 == 0:
            raise UnlearnTooFast(
                self._too_fast("the gap closed within one pass, and the model as given is nearer to it")
            )
        self._restore(previous)
        return last - 1

    def _too_fast(self, why: str) -> str:
        return (
            f"lr: unlearning too fast: {why}; lower lr (now {self.method.lr:g}), for example to {self.method.lr / 4:g}, "
            "raise gamma, or enlarge batch_size so that a pass has fewer steps"
        )

    def _dropped(self, history: list[dict[str, Any]]) -> bool:
        now = history[-1].get("retain_accuracy")
        return now is not None and 100.0 * (history[0]["retain_accuracy"] - now) > self.method.drop_points

    def _restore(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in weights.items():
                self.active[name].copy_(weight)

    def _pass(self, step: int) -> dict[str, Any]:
        """One pass over the forget set: plain projected SGD."""
        method, count = self.method, len(self.images)
        rate = method.rate(step)
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.eval()
        shuffle = bool(self.forget_classes) if method.shuffle is None else method.shuffle
        order = torch.from_numpy(stream(method.seed, step).permutation(count)) if shuffle else torch.arange(count)
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        kept = {name: torch.zeros(2, device=self.device) for name in self.active}
        names, weights = list(self.active), list(self.active.values())
        for rows in order.to(self.device).split(method.batch_size):
            with autocast(self.device, method.precision):
                logits = self.changing(self.images[rows])
            first, second = TERMS[method.objective](logits, self.labels[rows], method.offset)
            loss = method.forget_weight * first + method.entropy_weight * second
            totals += torch.stack([loss.detach(), first.detach(), second.detach()]).double() * len(rows)
            if not weights:
                continue
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for name, weight, gradient in zip(names, weights, gradients, strict=True):
                    residual = self.projectors[name].residual(gradient)
                    kept[name] += torch.stack([residual.square().sum(), gradient.square().sum()])
                    weight.sub_(residual, alpha=rate)
                    if name in self.cores:
                        weight.sub_(self._scale_step(name, gradient), alpha=rate / 10)
        loss, first, second = (totals / count).tolist()
        fractions = {name: float(part[0] / part[1]) if float(part[1]) else None for name, part in kept.items()}
        return {"loss": loss, "loss_forget": first, "loss_entropy": second, "projected_fraction": fractions}

    def _scale_step(self, name: str, gradient: Tensor) -> Tensor:
        """The effect on W_eff = W − W M Mᵀ + W M S Mᵀ of a gradient step on S: A (Aᵀ G M) Mᵀ."""
        core, image = self.cores[name]
        grouped = gradient.reshape(core.shape[0], -1, core.shape[1])
        scale = torch.bmm(image.transpose(1, 2), torch.bmm(grouped, core))
        return torch.bmm(torch.bmm(image, scale), core.transpose(1, 2)).reshape(gradient.shape)

    def _evaluate(self, epoch: int) -> dict[str, Any]:
        """Accuracies after an epoch; monitored sets only as often as asked, or as the early stop needs."""
        last = epoch == self.method.epochs
        found: dict[str, Any] = {}
        for name, loader in self.sets.items():
            needed = name == "forget" or (name, self.method.early_stop) in (
                ("validation", "gap"),
                ("retain", "retain_drop"),
            )
            if needed or epoch % self.method.monitor_every == 0 or last:
                found[f"{name}_accuracy"] = accuracy(self.changing, loader, precision=self.method.precision)
        return found

    def _report(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.on_epoch is not None:
            self.on_epoch(row)
        return row

    def _check_moved(self, before: dict[str, Tensor]) -> None:
        if not self.active:
            self.notes.append(
                "nothing could move: every layer is frozen (γ = 1, or the core space is the whole space); the model is as it was"
            )
        elif self.method.epochs == 0:
            self.notes.append("epochs is 0: the model is as it was")
        elif all(torch.equal(weight, before[name]) for name, weight in self.active.items()):
            raise MethodDidNothing(
                "lr: PGU left every weight as it was: the gradient vanished (is the label's probability already nought?) or lr is too small to count"
            )


def _gap(row: Mapping[str, Any]) -> float:
    return float(row["validation_accuracy"] - row["forget_accuracy"])


def incremental(
    model: nn.Module,
    method: PGU,
    steps: Iterable[Loader],
    moments: SecondMoments,
    *,
    validation: Loader | None = None,
    recompute: Loader | None = None,
    monitor: Mapping[str, Loader] | None = None,
) -> Iterator[tuple[UnlearnResult, SecondMoments]]:
    """Forgets step after step, each from the previous step's model, with running second moments.

    Memory does not grow with the number of steps.

    **Arguments:**

    - `steps`: one forget loader for each step. `moments`: of all training data, with `model`.
    - `recompute`: a loader of what is left after each step (a callable would hide its cost): where given, moments are
        computed anew with the current model, to show how far running ones drift.

    **Yields:** the step's result and the running moments after it.
    """
    current, running = model, moments
    running.check_model(current)
    for forget in steps:
        names = list(running.matrices)
        if recompute is not None:
            running = second_moments(current, recompute, layers=names)
        forgotten = second_moments(current, forget, layers=names)
        running = running.subtract(forgotten, allow_model_change=True)
        result = method.unlearn(
            current, forget=forget, moments=running.decompose(), validation=validation, monitor=monitor
        )
        yield result, running
        current = result.model
