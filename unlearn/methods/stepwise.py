"""Any method, again and again on a forget set that grows: how long a model stands it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Unpack

from torch import nn

from ..core.checked import check_integer, check_number
from ..core.seeds import check_seed
from ..data.scenario import Split
from ..models.probe import Probe
from . import METHODS
from .base import Card, Inputs, Method, Needs, Steps, UnlearnResult


@dataclass(frozen=True)
class Stepwise(Method):
    """A method that starts every step from the model of the step before: a stress test.

    A step forgets its own samples. What earlier steps forgot is no retain data any more.

    **Arguments:**

    - `method`, `options`: the method of each step, by name, with its own options.
    - `step`: samples of each class in one step, a multiple of the scenario's; None: as in the
        scenario.
    - `fail_points`: ends once test accuracy has fallen by more than this many points below the
        original model's; None: goes through all steps.
    - `audit_every`: after so many steps, and after the last, measures how well confidence tells all
        samples forgotten so far from unseen ones. None: never.
    - `recover_epochs`, `recover_lr`: passes of plain fine-tuning on the data that is left, after
        the last step.
    - `seed`: of the method, where it has one.

    Raises `ValueError` for values that are not allowed.
    """

    name: ClassVar[str] = "stepwise"
    access: ClassVar[str] = "retain"
    scenarios: ClassVar[frozenset[str]] = frozenset({"incremental"})
    in_steps: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        "Step by step",
        "step t applies the method to the model of step t − 1, with D_f of step t and what D_r is left",
        "the stress test of Hoang, Rana, Gupta, Venkatesh (WACV 2024), for any method",
        "those of the method, for each step",
    )
    fixed: ClassVar[frozenset[str]] = frozenset(
        {"method", "options", "step", "fail_points", "audit_every", "recover_epochs", "recover_lr"}
    )

    method: str = "finetune"
    options: dict[str, Any] = field(default_factory=dict)
    step: int | None = None
    fail_points: float | None = None
    audit_every: int | None = None
    recover_epochs: int = 0
    recover_lr: float = 0.005
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS or METHODS[self.method].in_steps:
            raise ValueError(f"method: {self.method!r} is not allowed; give a method that does not forget in steps")
        check_integer("step", self.step, 1, optional=True)
        check_integer("audit_every", self.audit_every, 1, optional=True)
        check_integer("recover_epochs", self.recover_epochs, 0)
        check_number("recover_lr", self.recover_lr, above=0)
        if self.fail_points is not None:
            check_number("fail_points", self.fail_points, above=0, most=100)
        check_seed(self.seed)
        try:
            self.inner  # noqa: B018
        except TypeError as error:
            raise ValueError(
                f"options: {self.options!r} is not allowed; {self.method} takes others ({error})"
            ) from None

    @property
    def inner(self) -> Method:
        """The method of each step."""
        made = METHODS[self.method].of(**self.options)
        seeded = "seed" in {item.name for item in fields(made)} and "seed" not in self.options
        return replace(made, **{"seed": self.seed}) if seeded else made

    def steps(self) -> Steps:
        """How the set grows, when to stop, and what follows."""
        return Steps(
            self.step, self.fail_points, False, self.recover_epochs, self.recover_lr, audit_every=self.audit_every
        )

    def needs(self) -> Needs:
        """What the method of each step needs."""
        return self.inner.needs()

    def parts(self) -> tuple[Method, ...]:
        """Returns this method and that of each step."""
        return (self, self.inner)

    def passes(self) -> int:
        """Passes of one step."""
        return self.inner.passes()

    def check(self, split: Split) -> None:
        """Raises `UnlearnError` where there are no steps, or the method cannot take them."""
        super().check(split)
        self.inner.check(split)

    def check_model(self, model: nn.Module, looked: Probe) -> None:
        """Raises `UnlearnError` where the method cannot work on a model."""
        self.inner.check_model(model, looked)

    def unlearn(self, model: nn.Module, **given: Unpack[Inputs]) -> UnlearnResult:
        """One step. An experiment makes them all."""
        return self.inner.unlearn(model, **given)
