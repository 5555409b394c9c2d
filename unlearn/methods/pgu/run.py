"""One run of projected-gradient unlearning: the passes over the forget set, and when they stop."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...core.batches import EpochCallback, Loader, device_of
from ...core.errors import MethodDidNothing, NothingToForget, UnlearnError, UnlearnTooFast
from ...core.memory import keep_freed_memory
from ...core.modes import flags_kept, frozen_notes, modes_kept, train_with_norms_frozen
from ...core.numerics import arithmetic, deterministic_convolutions
from ...core.rounding import within
from ...core.seeds import seeded, stream
from ...data.loader import ArrayLoader
from ...models.classes import drop_classes
from ...models.layers import projectable_layers
from ...models.logits import classify
from ...moments.basis import CoreBasis, Projector
from ...training.loop import autocast
from ...training.predict import accuracy, evaluating
from ..base import UnlearnResult
from ..cut import cut
from ..features import FeatureLoader, compute, room_for_features
from .losses import depoisoning_terms, forgetting_terms
from .settings import Settings

_EVALUATION_BATCH = 512
_PROBE = 3  # images that the halves of a model are tried with, in two sizes of batch


class Run:
    """One unlearning, from the copied model to the result.

    **Arguments:** `model` is changed in place. `names` of the layers whose weights may move. `sets`
    are evaluated: `validation` and those monitored. `extra_rank` is added to k.
    """

    def __init__(
        self,
        method: Settings,
        model: nn.Module,
        names: list[str],
        basis: CoreBasis,
        forget: Loader,
        sets: Mapping[str, Loader],
        forget_classes: tuple[int, ...],
        extra_rank: int,
        on_epoch: EpochCallback | None,
    ) -> None:
        self.method, self.model, self.forget_classes, self.on_epoch = method, model, forget_classes, on_epoch
        self.device = device_of(model)
        self.notes = list(basis.warnings)
        layers = projectable_layers(model)
        self.weights: dict[str, Tensor] = {}  # of the layers that move
        self.projectors: dict[str, Projector] = {}
        self.cores: dict[str, tuple[Tensor, Tensor]] = {}
        self.inputs: dict[str, _InputSide] = {}
        self.unreached: dict[str, None] = {}  # layers that no gradient reaches, in their order
        self.state: dict[str, dict[str, Any]] = {}  # the optimiser's
        for name in names:
            layer, gamma = layers[name], method.gamma_of(name)
            weight = layer.weight
            wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
            options = (name, gamma, method.criterion, extra_rank, method.ways.rank_rule == "below")
            projector = basis.projector(*options).to(self.device, wide)
            core = None
            if method.depoisons and gamma < 1.0 and method.ways.scale_size != 0:
                core = basis.core(*options).to(self.device, wide)
                if method.ways.scale_size is not None and isinstance(layer, nn.Linear):
                    core = core[:, :, -method.ways.scale_size :]
            if projector.frozen and (core is None or core.shape[2] == 0):
                continue
            self.weights[name], self.projectors[name] = weight, projector
            if core is not None:
                # A = W M, which no step in the residual space changes: the scale's gradient is Aᵀ G
                # M in every epoch.
                grouped = weight.detach().to(wide).reshape(core.shape[0], -1, core.shape[1])
                self.cores[name] = core, torch.bmm(grouped, core)
            elif isinstance(layer, nn.Linear):
                self.inputs[name] = _InputSide(layer, projector)
        self.fresh = self._augmenting(forget)
        images, self.labels = compute(nn.Identity(), forget, self.device, "float32")
        self.changing, self.images, self.sets = self._without_prefix(images, dict(sets))
        self.terms = depoisoning_terms if method.depoisons else forgetting_terms

    def _augmenting(self, forget: Loader) -> ArrayLoader | None:
        """Returns a loader of augmented images where the passes are to see those."""
        augment = self.method.ways.augment
        if augment is None:
            return None
        if not isinstance(forget, ArrayLoader):
            raise UnlearnError(
                f"augment: {augment!r} needs the forget set as an ArrayLoader, which augments; give None"
            )
        size, seed = self.method.batch_size, self.method.seed
        return forget.replace(augment=augment, batch_size=size, seed=seed, shuffle=self._shuffles())

    def _shuffles(self) -> bool:
        shuffle = self.method.details.shuffle
        return bool(self.forget_classes) if shuffle is None else shuffle

    def _without_prefix(self, images: Tensor, sets: dict[str, Loader]) -> tuple[nn.Module, Tensor, dict[str, Loader]]:
        """Computes once what the frozen first part of the model makes of each set, where there is
        one and room.
        """

        def stored(values: Tensor, labels: Tensor) -> Loader:
            return FeatureLoader(values, labels, batch_size=_EVALUATION_BATCH, shuffle=False, seed=0)

        whole = self.model, images, {"forget": stored(images, self.labels), **sets}
        if not self.weights or len(images) < 2 or self.fresh is not None:
            return whole
        with modes_kept(self.model):
            train_with_norms_frozen(self.model)
            parts = cut(self.model, list(self.weights.values()), images[:_PROBE])
        if parts is None:
            return whole
        precision = self.method.details.precision
        example, _ = compute(parts.prefix, [(images[:1], self.labels[:1])], self.device, precision)
        counts = [getattr(loader, "dataset_size", 0) for loader in sets.values()]
        needed = (len(images) + sum(counts)) * example.numel() * example.element_size()
        if needed > room_for_features(self.device):
            self.notes.append(
                f"the frozen part was computed in every pass: its outputs would take {needed / 2**30:.1f} GiB"
            )
            return whole
        features, _ = compute(parts.prefix, stored(images, self.labels), self.device, precision)
        kept = {name: stored(*compute(parts.prefix, loader, self.device, precision)) for name, loader in sets.items()}
        return parts.suffix, features, {"forget": stored(features, self.labels), **kept}

    def run(self) -> UnlearnResult:
        """Unlearns and returns the result, the model's modes and `requires_grad` as they were."""
        moving = {id(weight) for weight in self.weights.values()}
        self.notes += frozen_notes(self.model, moving)
        before = self._copy()
        exact = arithmetic(self.method.details.precision)
        try:
            with (
                flags_kept(self.model),
                modes_kept(self.model),
                seeded(self.method.seed),
                exact,
                deterministic_convolutions(),
                keep_freed_memory(),
            ):
                for parameter in self.model.parameters():
                    parameter.requires_grad_(id(parameter) in moving)
                history, stopped_at = self._epochs()
        finally:
            for side in self.inputs.values():
                side.remove()
        if self.unreached:
            names = ", ".join(list(self.unreached)[:5])
            self.notes.append(f"no gradient reaches {names}: left as given")
        if stopped_at != 0:  # 0: the release's rule chose the model as it was
            self._check_moved(before)
            self._check_finite()
        return UnlearnResult(drop_classes(self.model, self.forget_classes), history, stopped_at, self.notes)

    def _epochs(self) -> tuple[list[dict[str, Any]], int | None]:
        method = self.method
        history = [self._report({"epoch": 0, **self._evaluate(0), "seconds": 0.0})]
        if method.early_stop == "gap" and _gap(history[0]) > 0:
            raise NothingToForget(
                f"early_stop: 'gap' is passed before the first step (forget accuracy {history[0]['forget_accuracy']:.3f}, validation accuracy "
                f"{history[0]['validation_accuracy']:.3f}); the model does not know the forget set better than unseen data; use early_stop=None"
            )
        original = self._copy() if method.ways.gap_rule == "released" else {}
        for step in range(method.passes()):
            previous = self._copy() if method.early_stop else {}
            started = time.perf_counter()
            row = {"epoch": step + 1, "lr": method.rate(step), **self._pass(step), **self._evaluate(step + 1)}
            row["seconds"] = time.perf_counter() - started
            history.append(self._report(row))
            if not math.isfinite(row["loss"]):
                raise UnlearnError(f"lr: the loss is no longer finite in epoch {step + 1}; lower lr ({method.lr:g})")
            if method.early_stop == "gap" and _gap(row) > 0:
                return history, self._choose(history, previous)
            if method.early_stop == "retain_drop" and self._dropped(history):
                if method.ways.after_drop == "last":
                    return history, step + 1
                if step == 0:
                    raise self._too_fast(f"{method.watched} accuracy fell by more than drop_points within one pass")
                self._restore(previous)
                return history, step
        if method.early_stop == "gap" and method.details.stop_after is None and method.passes() > 0:
            if method.ways.gap_rule == "released":
                self._restore(original)
                self.notes.append("the early stop was not reached: the release keeps the model as it was")
                return history, 0
            self.notes.append(
                f"the early stop was not reached in {method.passes()} epochs: forget accuracy is still {-_gap(history[-1]):.3f} above validation accuracy; "
                "raise lr or epochs, or lower gamma"
            )
        return history, None

    def _choose(self, history: list[dict[str, Any]], previous: dict[str, Tensor]) -> int:
        """Keeps this or the previous epoch, whichever gap is nearer to nought."""
        last = len(history) - 1
        now, before = abs(_gap(history[-1])), abs(_gap(history[-2]))
        released = self.method.ways.gap_rule == "released"
        if now < before or (now == before and not released):
            return last
        if last == 1 and not released:
            raise self._too_fast("the gap closed within one pass, and the model as given is nearer to it")
        self._restore(previous)
        return last - 1

    def _too_fast(self, why: str) -> UnlearnTooFast:
        return UnlearnTooFast(
            f"lr: unlearning too fast: {why}; lower lr (now {self.method.lr:g}), for example to {self.method.lr / 4:g}, "
            "raise gamma, or enlarge batch_size so that a pass has fewer steps"
        )

    def _dropped(self, history: list[dict[str, Any]]) -> bool:
        key = f"{self.method.watched}_accuracy"
        return not within(100.0 * (history[0][key] - history[-1][key]), self.method.details.drop_points)

    def _copy(self) -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in self.weights.items()}

    def _restore(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in weights.items():
                self.weights[name].copy_(weight)

    def _batches(self, step: int) -> list[tuple[Tensor, Tensor]] | Loader:
        """The forget set in the order in which it came, or shuffled anew in every pass."""
        size = self.method.batch_size
        if self.fresh is not None:
            self.fresh.set_epoch(step + 1)
            return [(images.to(self.device), labels.to(self.device)) for images, labels in self.fresh]
        if self._shuffles():
            order = torch.from_numpy(stream(self.method.seed, step).permutation(len(self.labels))).to(self.device)
            return ((self.images.index_select(0, rows), self.labels[rows]) for rows in order.split(size))
        return list(zip(self.images.split(size), self.labels.split(size), strict=True))

    def _pass(self, step: int) -> dict[str, Any]:
        """One pass over the forget set: plain projected SGD. Nothing in it waits for the device."""
        method, rate = self.method, self.method.rate(step)
        train_with_norms_frozen(self.model)
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        kept = {name: torch.zeros(2, device=self.device) for name in self.weights}
        for images, labels in self._batches(step):
            with autocast(self.device, method.details.precision):
                logits = classify(self.changing, images)
            first, second = self.terms(logits, labels, method.offset)
            loss = method.details.forget_weight * first + method.entropy_weight * second
            totals += torch.stack([loss, first, second]).detach().double() * len(labels)
            if self.weights:
                gradients = torch.autograd.grad(loss, list(self.weights.values()), allow_unused=True)
                with torch.no_grad():
                    for name, gradient in zip(self.weights, gradients, strict=True):
                        if gradient is None:  # no part in the logits, or run without gradients
                            self.unreached.setdefault(name)
                        else:
                            self._update(name, gradient, rate, kept[name])
        loss_mean, first_mean, second_mean = (totals / len(self.labels)).tolist()
        fractions = {name: float(part[0] / part[1]) if float(part[1]) else None for name, part in kept.items()}
        means = {"loss": loss_mean, "loss_forget": first_mean, "loss_entropy": second_mean}
        return {**means, "projected_fraction": fractions}

    def _update(self, name: str, gradient: Tensor, rate: float, kept: Tensor) -> None:
        weight, projector = self.weights[name], self.projectors[name]
        wide = torch.float64 if gradient.dtype == torch.float64 else torch.float32
        gradient = gradient.to(wide)
        residual = self.inputs[name].take() if name in self.inputs else None
        if residual is None:
            residual = projector.residual(gradient)
        kept += torch.stack([residual.square().sum(), gradient.square().sum()])
        weight.sub_(self._direction(name, residual).to(weight.dtype), alpha=rate)
        if name in self.cores:
            weight.sub_(self._scale_step(name, gradient).to(weight.dtype), alpha=rate / 10)

    def _direction(self, name: str, residual: Tensor) -> Tensor:
        """What the optimiser makes of a projected gradient; it stays in the residual space."""
        if self.method.details.optimizer == "sgd":
            return residual
        state = self.state.setdefault(name, {"step": 0})
        if not state["step"]:
            state.update(mean=torch.zeros_like(residual), square=torch.zeros_like(residual))
        state["step"] += 1
        if self.method.details.optimizer == "momentum":
            direction: Tensor = state["mean"].mul_(0.9).add_(residual)
            return direction
        state["mean"].lerp_(residual, 0.1)
        state["square"].lerp_(residual.square(), 0.001)
        mean = state["mean"] / (1 - 0.9 ** state["step"])
        size = (state["square"] / (1 - 0.999 ** state["step"])).sqrt()
        return self.projectors[name].residual(mean / (size + 1e-8))

    def _scale_step(self, name: str, gradient: Tensor) -> Tensor:
        """The effect on W_eff = W − W M Mᵀ + W M S Mᵀ of a gradient step on S: A (Aᵀ G M) Mᵀ."""
        core, image = self.cores[name]
        grouped = gradient.reshape(core.shape[0], -1, core.shape[1])
        scale = torch.bmm(image.transpose(1, 2), torch.bmm(grouped, core))
        return torch.bmm(torch.bmm(image, scale), core.transpose(1, 2)).reshape(gradient.shape)

    def _evaluate(self, epoch: int) -> dict[str, Any]:
        """Accuracies after an epoch, only as often as asked, or as the early stop needs."""
        method = self.method
        found: dict[str, Any] = {"validation_accuracy": None}
        needed = {"gap": ("forget", "validation"), "retain_drop": (method.watched,)}.get(method.early_stop or "", ())
        due = epoch % method.details.monitor_every == 0 or epoch == method.passes()
        for name, loader in self.sets.items():
            value = (
                accuracy(self.changing, loader, precision=method.details.precision) if due or name in needed else None
            )
            found[f"{name}_accuracy"] = value
        return found

    def _report(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.on_epoch is not None:
            self.on_epoch(row)
        return row

    def _check_moved(self, before: Mapping[str, Tensor]) -> None:
        if not self.weights:
            self.notes.append(
                "nothing could move: every layer is frozen (γ = 1, or the core space is the whole space); the model is as it was"
            )
        elif self.method.passes() == 0:
            self.notes.append("no pass was made: the weights are as they were")
        elif all(torch.equal(weight, before[name]) for name, weight in self.weights.items()):
            raise MethodDidNothing(
                "lr: PGU left every weight as it was: the gradient vanished (is the label's probability already nought?) or lr is too small to count"
            )

    def _check_finite(self) -> None:
        """The loss of a pass is that before its last step, which may have gone too far."""
        with torch.no_grad(), evaluating(self.changing):
            logits = classify(self.changing, self.images[:_PROBE])
        if not bool(torch.isfinite(logits).all()):
            raise UnlearnError(f"lr: {self.method.lr:g}: the last step left logits that are not finite; lower lr")


def _gap(row: Mapping[str, Any]) -> float:
    return float(row["validation_accuracy"] - row["forget_accuracy"])


class _InputSide:
    """The projected gradient of a linear layer from its projected inputs, δᵀ (X − X M Mᵀ), where
    that is cheaper.

    A batch of R inputs takes 4·R·d·r operations to project and 2·R·out·d to multiply; the gradient
    takes 4·out·d·r.
    """

    def __init__(self, layer: nn.Linear, projector: Projector) -> None:
        self.layer, self.projector = layer, projector
        self.total: Tensor | None = None
        self.cheaper = True
        self.handle = layer.register_forward_hook(self._watch, with_kwargs=True)

    def _watch(
        self, module: nn.Module, inputs: tuple[Tensor, ...], named: Mapping[str, Tensor], output: Tensor
    ) -> None:
        if not (torch.is_grad_enabled() and output.requires_grad and self.projector.factor is not None):
            return
        rows = (
            (inputs[0] if inputs else named["input"])
            .detach()
            .reshape(-1, self.layer.in_features)
            .to(self.projector.factor.dtype)
        )
        rank, outputs = self.projector.factor.shape[2], self.layer.out_features
        # A layer that is called twice in one pass goes by its inputs only if that is cheaper for
        # both calls.
        self.cheaper &= len(rows) * (4 * rank + 2 * outputs) < 4 * outputs * rank
        if self.cheaper:
            output.register_hook(lambda gradient: self._add(gradient, rows))

    def _add(self, gradient: Tensor, rows: Tensor) -> None:
        part = gradient.reshape(-1, self.layer.out_features).to(rows.dtype).T @ self.projector.residual(rows)
        self.total = part if self.total is None else self.total + part

    def take(self) -> Tensor | None:
        """Returns the sum of this pass, or None where the gradient is the cheaper side, and starts
        anew.
        """
        total, self.total = (self.total if self.cheaper else None), None
        self.cheaper = True
        return total

    def remove(self) -> None:
        """Leaves the layer without a hook."""
        self.handle.remove()
