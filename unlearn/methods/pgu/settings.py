"""The settings of projected-gradient unlearning, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...core.checked import check_choice, check_integer, check_number, is_number
from ...core.seeds import check_seed
from ...moments.basis import CRITERIA
from .released import Released

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
        check_choice("unit", self.unit, UNITS)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("precision", self.precision, PRECISIONS)
        check_number("forget_weight", self.forget_weight, least=0, most=1e6)
        check_number("drop_points", self.drop_points, least=0.0, most=100.0)
        check_integer("monitor_every", self.monitor_every, 1)
        check_integer("extra_rank", self.extra_rank, 0, optional=True)
        check_integer("stop_after", self.stop_after, 0, optional=True)


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
    released: Released = field(default_factory=Released)

    def __post_init__(self) -> None:
        check_choice("criterion", self.criterion, CRITERIA)
        check_choice("early_stop", self.early_stop, EARLY_STOPS)
        gammas = self.gamma if isinstance(self.gamma, Mapping) else {"": self.gamma}
        for layer, gamma in gammas.items():
            if not is_number(gamma) or not 0.0 <= gamma <= 1.0:
                shown = f"{{{layer}: {gamma!r}}}" if layer else repr(gamma)
                raise ValueError(f"gamma: {shown} is not allowed; give 0 to 1")
        check_number("offset", self.offset, least=1e-6, most=1)
        check_number("entropy_weight", self.entropy_weight, least=0, most=1e6)
        check_number("lr", self.lr, above=0)
        if self.final_lr is not None:
            check_number("final_lr", self.final_lr, above=0)
        check_integer("epochs", self.epochs, 0)
        check_integer("batch_size", self.batch_size, 1)
        check_integer("top_k", self.top_k, 1, optional=True)
        check_seed(self.seed)

    def passes(self) -> int:
        """The most passes over the forget set."""
        stop, most = self.details.stop_after, self.epochs
        if self.ways.evaluate_first:
            most = max(0, most - 1)
        return most if stop is None else min(most, stop)

    def rate(self, step: int) -> float:
        """The learning rate of pass `step` = 0, 1, …"""
        if self.final_lr is None or self.epochs == 0:
            return self.lr
        later = self.details.release_schedule or self.ways.evaluate_first
        exponent = (step + 1 if later else step) / self.epochs
        return float(self.lr * (self.final_lr / self.lr) ** exponent)

    @property
    def depoisons(self) -> bool:
        """Whether the loss and the update are those of depoisoning."""
        return False

    @property
    def ways(self) -> Released:
        """The choices in which the published release differs, `release` spelled out."""
        return self.released.resolved(self.depoisons)

    @property
    def watched(self) -> str:
        """The monitored set whose accuracy `retain_drop` watches."""
        return self.details.watch or ("test" if self.depoisons else "retain")

    def gamma_of(self, layer: str) -> float:
        """Returns γ of a layer."""
        return self.gamma.get(layer, DEFAULT_GAMMA) if isinstance(self.gamma, Mapping) else self.gamma
