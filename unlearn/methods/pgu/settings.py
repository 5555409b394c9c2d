"""The settings of projected-gradient unlearning, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...core.seeds import check_seed
from ...moments.basis import CRITERIA

EARLY_STOPS = ("gap", "retain_drop", None)
OPTIMIZERS = ("sgd", "momentum", "adam")
UNITS = ("layers", "blocks")
PRECISIONS = ("float32", "bfloat16")
DEFAULT_GAMMA = 0.95


@dataclass(frozen=True)
class Details:
    """Settings of `PGU` that few people change. A recipe gives them beside the others, not nested.

    **Arguments:**

    - `unit`: whether `top_k` counts `layers` or `blocks`.
    - `stop_after`: ends after this many passes of the schedule that `epochs` sets. This is what
        early stopping looks at, or 0 for a model whose forgotten classes are cut off and nothing
        else.
    - `drop_points`, `watch`: `early_stop="retain_drop"` ends once accuracy on the monitored set
        `watch` has fallen by more points than this. None watches `retain`, in depoisoning `test`.
    - `monitor_every`: epochs between evaluations that no early stop needs. The last epoch is always
        evaluated.
    - `shuffle`: None shuffles where whole classes are forgotten.
    - `extra_rank`: is added to k. None: 1 where whole classes are forgotten by the singular
        criterion, as the published release does, else 0.
    - `optimizer`: `sgd` as published, `momentum` (0.9), or `adam`, whose step is projected once
        more: dividing each weight's step by its own size leads out of the residual space.
    - `release_schedule`: counts passes from 1, as the published release does, whose epoch 0 only
        evaluates.
    - `forget_weight`: w1 of the loss.
    - `precision`: `float32` or `bfloat16` autocast.

    Raises `ValueError` for values that are not allowed.
    """

    unit: str = "layers"
    stop_after: int | None = None
    drop_points: float = 5.0
    watch: str | None = None
    monitor_every: int = 1
    shuffle: bool | None = None
    extra_rank: int | None = None
    optimizer: str = "sgd"
    release_schedule: bool = False
    forget_weight: float = 1.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        _check_choice("unit", self.unit, UNITS)
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("precision", self.precision, PRECISIONS)
        _check_within("forget_weight", self.forget_weight, 0.0, 1e6)
        _check_within("drop_points", self.drop_points, 0.0, 100.0)
        _check_integer("monitor_every", self.monitor_every, 1)
        _check_integer("extra_rank", self.extra_rank, 0, optional=True)
        _check_integer("stop_after", self.stop_after, 0, optional=True)


@dataclass(frozen=True)
class Settings:
    """The fields of `PGU`; see there."""

    gamma: float | dict[str, float] = DEFAULT_GAMMA
    criterion: str = "singular"
    lr: float = 0.05
    final_lr: float | None = 0.01
    epochs: int = 100
    offset: float = 0.05
    entropy_weight: float = 0.2
    batch_size: int = 128
    top_k: int | None = None
    early_stop: str | None = "gap"
    seed: int = 0
    details: Details = field(default_factory=Details)

    def __post_init__(self) -> None:
        _check_choice("criterion", self.criterion, CRITERIA)
        _check_choice("early_stop", self.early_stop, EARLY_STOPS)
        gammas = self.gamma if isinstance(self.gamma, Mapping) else {"": self.gamma}
        for layer, gamma in gammas.items():
            if not _is_number(gamma) or not 0.0 <= gamma <= 1.0:
                shown = f"{{{layer}: {gamma!r}}}" if layer else repr(gamma)
                raise ValueError(f"gamma: {shown} is not allowed; give 0 to 1")
        _check_within("offset", self.offset, 1e-6, 1.0)
        _check_within("entropy_weight", self.entropy_weight, 0.0, 1e6)
        for name, rate in (("lr", self.lr), ("final_lr", self.final_lr)):
            if not (rate is None and name == "final_lr") and (not _is_number(rate) or float(rate or 0) <= 0.0):
                raise ValueError(f"{name}: {rate!r} is not allowed; give a number above 0")
        _check_integer("epochs", self.epochs, 0)
        _check_integer("batch_size", self.batch_size, 1)
        _check_integer("top_k", self.top_k, 1, optional=True)
        check_seed(self.seed)

    def passes(self) -> int:
        """The most passes over the forget set."""
        stop = self.details.stop_after
        return self.epochs if stop is None else min(self.epochs, stop)

    def rate(self, step: int) -> float:
        """The learning rate of pass `step` = 0, 1, …"""
        if self.final_lr is None or self.epochs == 0:
            return self.lr
        exponent = (step + 1 if self.details.release_schedule else step) / self.epochs
        return float(self.lr * (self.final_lr / self.lr) ** exponent)

    @property
    def depoisons(self) -> bool:
        """Whether the loss and the update are those of depoisoning."""
        return False

    @property
    def watched(self) -> str:
        """The monitored set whose accuracy `retain_drop` watches."""
        return self.details.watch or ("test" if self.depoisons else "retain")

    def gamma_of(self, layer: str) -> float:
        """Returns γ of a layer."""
        return self.gamma.get(layer, DEFAULT_GAMMA) if isinstance(self.gamma, Mapping) else self.gamma


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_choice(name: str, value: Any, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        shown = ", ".join("null" if choice is None else choice for choice in allowed)
        raise ValueError(f"{name}: {value!r} is not allowed; allowed are {shown}")


def _check_within(name: str, value: Any, low: float, high: float) -> None:
    if not _is_number(value) or not low <= value <= high:
        raise ValueError(f"{name}: {value!r} is not allowed; give a number from {low:g} to {high:g}")


def _check_integer(name: str, value: Any, least: int, *, optional: bool = False) -> None:
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: {value!r} is not allowed; give an integer of {least} or more")
