"""A unit is one piece of work, described by all that its result depends on. Its key is the hash of
that description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, TypeVar

from ..base.documents import LogLine
from ..base.values import Json, Object, canonical, digest, digest_of_text
from ..recipe.sections import Recipe
from .specs import Spec

# Part of every key. Raise it when the meaning of stored results changes, so that older ones are not
# taken for new ones.
FORMAT_VERSION = 1


def seed_for(*parts: Json) -> int:
    """Returns a seed in [0, 2³¹) that depends on `parts` only: one seed for each model, whatever
    the order of work."""
    return int(digest(list(parts))[:8], 16) % 2**31


@dataclass(frozen=True)
class Label:
    """What a unit is within its experiment.

    **Arguments:**

    - `role`: `original`, `retrained` or `unlearned`. `fold`: `train`, `validation` or `test`.
    - `method`, `params`: of the row that it belongs to. `attack`: that fits or scores.
    - `model_id`: what outputs call their model. `source`: the number of the original that it was
        made from.
    """

    role: str = ""
    fold: str = ""
    method: str = ""
    params: Object = field(default_factory=dict)
    attack: str = ""
    model_id: str = ""
    source: int | None = None

    @property
    def subject(self) -> str:
        """What the unit is about, in one word: its method, its attack or its role."""
        return self.method or self.attack or self.role


S = TypeVar("S", bound=Spec, covariant=True)


@dataclass(frozen=True)
class Unit(Generic[S]):
    """One piece of work.

    **Arguments:**

    - `spec`: everything that the result depends on. Hashed.
    - `name`: what a person calls it. Not hashed, so that recipes which name a model differently
        share it.
    - `label`: role, fold, method and so on within this experiment. Not hashed.
    - `needs`: units that must be done first. A missing one is executed in place, so a damaged
        object heals by itself.
    - `cost`: estimated work, in any one measure within a kind; orders units and gives the ETA.
    """

    spec: S
    name: str
    label: Label = Label()
    needs: tuple[Unit, ...] = ()
    cost: float = 1.0

    @property
    def kind(self) -> str:
        """`train`, `moments`, `basis`, `unlearn`, `outputs`, `attack`, `score`, `distance` and so
        on."""
        return self.spec.kind

    @cached_property
    def key(self) -> str:
        # The digest of {"format": …, "kind": …, "spec": the spec's identity}.
        text = f'{{"format":{FORMAT_VERSION},"kind":{canonical(self.kind)},"spec":{self.spec.canonical()}}}'
        return digest_of_text(text)

    def __hash__(self) -> int:
        return hash(self.key)

    def ancestors(self) -> dict[str, Unit]:
        """Returns every unit that this one needs, directly or not, by key, parents before
        children."""
        found: dict[str, Unit] = {}

        def visit(unit: Unit) -> None:
            for need in unit.needs:
                # once each: in a chain of diamonds the paths are too many to walk
                if need.key not in found:
                    visit(need)
                    found[need.key] = need

        visit(self)
        return found


@dataclass(frozen=True)
class Outcome:
    """What became of a unit: `done`, `reused` or `failed`, and in how many seconds of work."""

    key: str
    name: str
    kind: str
    status: str
    seconds: float = 0.0
    error: str = ""
    traceback: str = ""
    where: str = ""
    log: Sequence[LogLine] = ()  # what its worker said meanwhile

    @property
    def failed(self) -> bool:
        return self.status == "failed"


def default_threads(cpus_per_unit: float) -> int:
    """Returns how many threads a unit computes with: its whole cores, at least one. Part of what
    makes its bits repeat."""
    return max(1, int(cpus_per_unit))


# Units that make a model: without it nothing behind them can be made.
MODEL_KINDS = ("train", "unlearn")
# Seconds for one unit of cost, beside those of training. Measured once; they only order units.
_PACE = {"outputs": 0.5, "unseen": 0.5, "retained": 0.5}
_PACE_OF_NEEDS = {"attack": 2.0, "score": 0.1, "distance": 0.1, "traces": 0.1, "collateral": 0.1}


def weight_of(unit: Unit) -> float:
    """Returns how much work a unit is beside others of any kind: about the images that are trained
    on in the same time.
    """
    if unit.kind in _PACE_OF_NEEDS and unit.needs:
        return _PACE_OF_NEEDS[unit.kind] * sum(need.cost for need in unit.needs)
    return _PACE.get(unit.kind, 1.0) * unit.cost


def experiment_id(recipe: Recipe) -> str:
    """Returns a short identifier of a resolved recipe: the same recipe submitted twice is the same
    experiment."""
    return digest(recipe.document)[:16]
