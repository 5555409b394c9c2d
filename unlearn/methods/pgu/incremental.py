"""Forgetting in steps:

a forget set that grows (Hoang et al., WACV 2024, incremental unlearning).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from ...core.batches import EpochCallback, Loader
from ...core.checked import check_integer, check_number
from ...moments.moments import SecondMoments, second_moments
from ..base import Card, Choice, Method, Range, Ranges, Steps, UnlearnResult
from .pgu import PGU


def incremental(
    model: nn.Module,
    method: PGU,
    steps: Iterable[Loader],
    moments: SecondMoments,
    *,
    remaining: Iterable[Loader] | None = None,
    validation: Loader | None = None,
    monitor: Mapping[str, Loader] | None = None,
    on_epoch: EpochCallback | None = None,
) -> Iterator[UnlearnResult]:
    """Forgets step after step, each from the previous step's model.

    The moments run along: step t takes off those of its own forget set, computed with the model
    that it starts from. What earlier steps changed in the inputs of the retain data is not seen by
    them; `remaining` measures that drift. One model and one set of moments are held, however many
    steps there are.

    **Arguments:**

    - `steps`: one forget loader for each step, in any iterable, also one that makes them as they
        are asked for.
    - `moments`: of all training data, with `model`.
    - `remaining`: one loader for each step, of the data that is left after it. Where given, moments
        are computed anew with the current model instead of running along. This touches the retain
        data.
    - `validation`, `monitor`, `on_epoch`: as of `PGU.unlearn`.

    **Yields:** the result of each step. Going on is up to the caller: a step may raise
    `UnlearnTooFast`.

    **Raises:** `ValueError` where `remaining` ends before `steps` does; `IncompatibleMoments`.
    """
    moments.check_model(model)
    left = None if remaining is None else iter(remaining)
    for forget in steps:
        try:
            rest = None if left is None else next(left)
        except StopIteration:
            raise ValueError("remaining: it ends before the steps do; give one loader for each step") from None
        moments = next_moments(model, forget, moments, remaining=rest)
        result = method.unlearn(
            model,
            forget=forget,
            moments=moments.decompose(),
            validation=validation,
            monitor=monitor,
            on_epoch=on_epoch,
        )
        model = result.model
        yield result


def next_moments(
    model: nn.Module, forget: Loader, moments: SecondMoments, *, remaining: Loader | None = None
) -> SecondMoments:
    """Returns the moments of what is left after a step's forget set: the running ones less its own,
    or computed anew.

    **Arguments:** `model`: the model that the step starts from. `remaining`: of the data left;
    touches the retain data.
    """
    if remaining is not None:
        return second_moments(model, remaining, layers=moments.parts, stride_one=moments.stride_one)
    own = second_moments(model, forget, layers=moments.parts, stride_one=moments.stride_one)
    return moments.subtract(own, allow_model_change=True)


@dataclass(frozen=True)
class IncrementalPGU(PGU):
    """Projected-gradient unlearning step after step until it fails: a stress test.

    **Arguments**, beside those of `PGU`:

    - `step`: samples of each class in one step, a multiple of the scenario's; None: as in the
        scenario.
    - `fail_points`: ends once test accuracy has fallen by more than this many points below the
        original model's; None: goes through all steps.
    - `recompute_moments`: computes the moments of the data that is left anew before each step and
        measures how far the running ones have drifted from them. Reads the retain data.
    - `recover_epochs`, `recover_lr`: passes of plain fine-tuning on the data that is left, after
        the last step. Trains on the retain data.
    - `audit_every`: as of `Stepwise`.
    """

    name: ClassVar[str] = "pgu_incremental"
    scenarios: ClassVar[frozenset[str]] = frozenset({"incremental"})
    in_steps: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        "PGU, incremental",
        "PGU again and again: step t takes the moments of its forget set off the running ones",
        "Hoang, Rana, Gupta, Venkatesh, Learn to Unlearn for Deep Neural Networks, WACV 2024",
        "one decomposition and up to 100 passes over the forget set for each step",
    )

    ranges: ClassVar[Ranges] = {
        "recover_epochs": Choice((0, 1, 5)),
        "recover_lr": Range(1e-4, 0.05, log=True),
    }
    fixed: ClassVar[frozenset[str]] = frozenset({"step", "fail_points", "recompute_moments", "audit_every"})

    step: int | None = None
    fail_points: float | None = None
    recompute_moments: bool = False
    recover_epochs: int = 0
    recover_lr: float = 0.005
    audit_every: int | None = field(default=None, metadata={"since": 3})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("step", self.step, 1, optional=True)
        check_integer("audit_every", self.audit_every, 1, optional=True)
        check_integer("recover_epochs", self.recover_epochs, 0)
        check_number("recover_lr", self.recover_lr, above=0)
        if self.fail_points is not None:
            check_number("fail_points", self.fail_points, above=0, most=100)

    def steps(self) -> Steps:
        """How the set grows, when to stop, and what follows."""
        recover = self.recover_epochs, self.recover_lr
        return Steps(self.step, self.fail_points, self.recompute_moments, *recover, audit_every=self.audit_every)

    @classmethod
    def translate(cls, options: Mapping[str, Any]) -> tuple[type[Method], dict[str, Any]]:
        """Drops options that are gone; there is no depoisoning in steps."""
        if options.get("objective", "forget") != "forget":
            raise ValueError(f"objective: {options['objective']!r} is not allowed; allowed is forget")
        return super().translate(options)
