"""The lines of the results, and the plan that they are part of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from unlearn.methods.base import Method

from ..base.values import Object
from ..recipe.sections import Recipe
from .stages import STAGES
from .units import Unit


@dataclass(frozen=True)
class Row:
    """One line of the results: a method with its parameters, and the units that measure it."""

    method: str
    params: Object
    targets: tuple[Unit, ...]  # outputs of the models attacked (test fold)
    producers: tuple[Unit, ...]  # the training or unlearning units that made them
    # outputs of this method's models from the other folds (U-LiRA fits on them)
    companions: tuple[Unit, ...] = ()
    scores: tuple[Unit, ...] = ()
    distance: Unit | None = None  # None where the recipe has no retrained models to measure one to
    unseen: tuple[Unit, ...] = ()  # outputs of the models attacked on unseen images
    traces: Unit | None = None  # None where there are no retrained models
    collateral: Unit | None = None  # None unless the recipe asks for retained images
    unlearns: Method | None = None  # with its settings; None for the two reference rows

    @property
    def measures(self) -> tuple[Unit, ...]:
        """The units of the last stage: one for each attack, the distances, what single samples give
        away, and who else was hurt."""
        others = (self.distance, self.traces, self.collateral)
        return (*self.scores, *(unit for unit in others if unit is not None))


@dataclass(frozen=True)
class Plan:
    """Units by stage, and the rows they add up to."""

    recipe: Recipe
    stages: Mapping[str, tuple[Unit, ...]]
    rows: tuple[Row, ...]
    population: tuple[Unit, ...]  # outputs of all originals and retrained shadow models

    def units(self) -> Iterator[Unit]:
        for stage in STAGES:
            yield from self.stages[stage]


def short(params: Object) -> str:
    """Returns parameters in short, sorted: names are part of score keys, and the order in a recipe
    must not count."""
    return f"({', '.join(f'{k}={params[k]}' for k in sorted(params))})" if params else ""


def distinct(units: Iterable[Unit]) -> tuple[Unit, ...]:
    """Returns each unit once, by its key, in order."""
    return tuple({unit.key: unit for unit in units}.values())
