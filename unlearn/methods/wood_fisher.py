"""Influence unlearning: one Newton step away from the forget set, with the Fisher matrix of the
retain set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jvp

from ..core.errors import UnlearnError
from ..core.seeds import check_seed
from ..models.logits import classify, fitting, logits_of
from ..training.predict import evaluating
from .base import Card, Choice, Preset, Presets, Range, Ranges
from .kit import KitMethod, Samples, Task, per_sample_cross_entropy
from .kit.mask import summed_gradient

RECURSIONS = ("exact", "released")
Vector = dict[str, Tensor]
# the residual at which conjugate gradients stop, as a share of the right-hand side
_RELATIVE = 1e-6
_STEPS = 200
_UNSOLVED = 1e-3  # the residual from which on the system counts as unsolved


@dataclass(frozen=True, kw_only=True)
class WoodFisher(KitMethod):
    """θ ← θ + α·(λI + F̂)⁻¹·v, with F̂ = (1/N)·Σ g_i g_iᵀ over N retain samples.

    v = (1/n)·Σ_f g − (n_f/(n·n_r))·Σ_r g, with n = n_f + n_r, is the change of the gradient when
    D_f is taken out. The history holds the relative residual of the `exact` step; above 1e-3 the
    step is refused.

    **Arguments:**

    - `alpha` (α); `damping` (λ).
    - `fisher_samples` (N), drawn once from `seed`; all where there are fewer.
    - `recursion`: `exact` solves the system by conjugate gradients, which takes no memory for N
        gradients. `released` is the recursion of public code, which only rescales its first
        gradient; it assumes λ = 1.
    """

    name: ClassVar[str] = "wood_fisher"
    version: ClassVar[int] = 2
    access: ClassVar[str] = "retain"
    card: ClassVar[Card] = Card(
        "WoodFisher",
        "θ ← θ + α·(λI + (1/N)·Σ g_i g_iᵀ)⁻¹·v",
        "Izzo, Smart, Chaudhuri, Zou, AISTATS 2021; Singh, Alistarh, WoodFisher, NeurIPS 2020; as in Jia et al., 2023",
        "one pass over both sets, and a pass over N samples for each step of conjugate gradients",
        (
            "Public code (OPTML and two copies) never applies F̂⁻¹ to its own vector. All that it "
            "changes lies along the first sample's gradient. `recursion: released` gives that.",
        ),
    )
    presets: ClassVar[Presets] = {
        "wood-fisher-delete": Preset({"alpha": 1.0, "recursion": "released"}, "DELETE scripts.sh, class-wise CIFAR-10"),
    }
    ranges: ClassVar[Ranges] = {
        "alpha": Range(0.1, 1000.0, log=True),
        "damping": Range(1e-3, 1.0, log=True),
        "fisher_samples": Choice((100, 300, 1000)),
    }

    retired: ClassVar[Mapping[str, Any]] = {"samples": 1000}  # under which keys of units knew it
    fixed: ClassVar[frozenset[str]] = frozenset({"recursion"})

    alpha: float = 1.0
    damping: float = 1.0
    fisher_samples: int = field(default=1000, metadata={"since": 3})
    recursion: str = "exact"
    seed: int = 0

    def __post_init__(self) -> None:
        self.one_of("recursion", RECURSIONS)
        self.require("damping", self.damping > 0, "a number above 0")
        free = self.recursion == "exact" or self.damping == 1
        self.require("damping", free, "1: the released recursion starts from 1")
        self.require("fisher_samples", self.fisher_samples >= 1, "1 or more")
        check_seed(self.seed)

    def run(self, task: Task) -> None:
        """Makes the step."""
        gradient = change_of_gradient(task)
        residual: float | None = None
        model, weights = task.original, {name: weight.detach() for name, weight in task.named_parameters().items()}
        # Double precision: conjugate gradients lose their directions to rounding.
        with evaluating(model):
            if self.recursion == "released":
                found = _released(
                    lambda: _single_gradients(model, self._sample(task.retain, 1)), gradient, self.fisher_samples
                )
            else:

                def times(vector: Vector) -> Vector:
                    return _fisher_times(model, weights, self._sample(task.retain, 256), vector)

                found = _solve(times, gradient, self.damping)
                residual = _residual(times, found, gradient, self.damping)
                if residual > _UNSOLVED:
                    raise UnlearnError(
                        f"damping: {self.damping} leaves the system unsolved after {_STEPS} steps (relative residual "
                        f"{residual:.2g}, at most {_UNSOLVED}); raise it"
                    )
        with torch.no_grad():
            for name, weight in task.named_parameters().items():
                weight.add_(self.alpha * found[name].to(weight.dtype))
        if residual is not None:
            task.report({"epoch": 1, "residual": residual})

    def _sample(self, retain: Samples, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        left = self.fisher_samples
        for batch in retain.batches(0, batch_size=batch_size):
            if left <= 0:
                return
            yield batch.images[:left], batch.labels[:left]
            left -= len(batch)


def change_of_gradient(task: Task) -> Vector:
    """v of `WoodFisher`, float64 by parameter name, in evaluation mode."""
    sums = [
        summed_gradient(task.original, samples.plain(), per_sample_cross_entropy)
        for samples in (task.forget, task.retain)
    ]
    n_f, n_r = task.forget.size, task.retain.size
    return {name: (sums[0][name] - sums[1][name] * (n_f / n_r)) / (n_f + n_r) for name in sums[0]}


def _single_gradients(model: nn.Module, ones: Iterator[tuple[Tensor, Tensor]]) -> Iterator[Vector]:
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for images, labels in ones:
        with torch.enable_grad():
            found = torch.autograd.grad(
                F.cross_entropy(classify(model, images), labels), list(named.values()), allow_unused=True
            )
        yield {
            name: torch.zeros_like(weight, dtype=torch.float64) if gradient is None else gradient.double()
            for (name, weight), gradient in zip(named.items(), found, strict=True)
        }


def _fisher_times(
    model: nn.Module, weights: Vector, batches: Iterator[tuple[Tensor, Tensor]], vector: Vector
) -> Vector:
    """(1/N)·Σ g_i (g_i·vector): one directional derivative and one gradient for each batch."""
    single = {name: part.to(weights[name].dtype) for name, part in vector.items()}
    total, count = {name: torch.zeros_like(part) for name, part in vector.items()}, 0
    for images, labels in batches:

        def losses(parameters: Vector, images: Tensor = images, labels: Tensor = labels) -> Tensor:
            return F.cross_entropy(
                logits_of(functional_call(model, parameters, (fitting(images, next(iter(parameters.values()))),))),
                labels,
                reduction="none",
            )

        along = jvp(losses, (weights,), (single,))[1]
        moving = {name: weight.clone().requires_grad_(True) for name, weight in weights.items()}
        with torch.enable_grad():
            found = torch.autograd.grad(
                (losses(moving) * along.detach()).sum(), list(moving.values()), allow_unused=True
            )
        for name, gradient in zip(moving, found, strict=True):
            if gradient is not None:
                total[name] += gradient
        count += len(labels)
    return {name: part / count for name, part in total.items()}


def _dot(a: Vector, b: Vector) -> Tensor:
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def _solve(times: Callable[[Vector], Vector], right: Vector, damping: float) -> Vector:
    """Conjugate gradients for (damping·I + A) x = right, A positive semi-definite."""
    found = {name: torch.zeros_like(part) for name, part in right.items()}
    rest, direction = dict(right), dict(right)
    size = _dot(rest, rest)
    goal = size * _RELATIVE**2
    for _ in range(_STEPS):
        if size <= goal:
            break
        image = times(direction)
        image = {name: part + damping * direction[name] for name, part in image.items()}
        step = size / _dot(direction, image)
        found = {name: part + step * direction[name] for name, part in found.items()}
        rest = {name: part - step * image[name] for name, part in rest.items()}
        size, before = _dot(rest, rest), size
        direction = {name: rest[name] + (size / before) * direction[name] for name in rest}
    return found


def _residual(times: Callable[[Vector], Vector], found: Vector, right: Vector, damping: float) -> float:
    """|right − (damping·I + A) x| / |right|: of the system, not of the recursion, which drifts."""
    image = times(found)
    rest = {name: part - damping * found[name] - image[name] for name, part in right.items()}
    return float((_dot(rest, rest) / _dot(right, right)).sqrt())


def _released(gradients: Callable[[], Iterator[Vector]], right: Vector, count: int) -> Vector:
    """The recursion of public code. What it calls o stays along the first gradient."""
    found, o = dict(right), None
    for gradient in gradients():
        if o is None:
            o = gradient
            continue
        tmp = _dot(o, gradient)
        share = _dot(found, gradient) / (count + tmp)
        found = {name: part - share * o[name] for name, part in found.items()}
        o = {name: part - tmp / (count + tmp) * part for name, part in o.items()}
    return found
