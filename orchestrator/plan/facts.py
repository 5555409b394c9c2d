"""What finished units say of themselves, stored as JSON beside their files: one class for each kind
of unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..base.values import Json, Object, Record, plain
from ..store import Store


@dataclass(frozen=True)
class Facts:
    """Nothing beyond what every unit says: see `Made`."""

    def to_json(self) -> dict[str, Json]:
        """Returns the facts as JSON data."""
        return {item.name: plain(getattr(self, item.name)) for item in dataclasses.fields(self)}


@dataclass(frozen=True)
class Made(Facts):
    """What every unit says: what it was made from, how long that took, where and when (seconds
    since 1970)."""

    kind: str
    name: str
    spec: Object
    cost: float
    seconds: float
    host: str
    finished: float


@dataclass(frozen=True)
class ModelFacts(Facts):
    """A model that was trained: how to build it, classes that it no longer has, one entry of
    `history` a pass."""

    model: Object
    dropped_classes: Sequence[int]
    history: Sequence[Record]


@dataclass(frozen=True)
class UnlearnFacts(ModelFacts):
    """A model that forgot. `steps` are the rows of forgetting in steps; `basis_seconds` what
    decomposing took."""

    stopped_at: int | None
    notes: Sequence[str]
    steps: Sequence[Record] = ()
    basis_seconds: float = 0.0


@dataclass(frozen=True)
class StepFacts(ModelFacts):
    """One step of forgetting in steps, with the row that it adds to the chain."""

    row: Record
    notes: Sequence[str]


@dataclass(frozen=True)
class BasisFacts(Facts):
    """A decomposition; `warnings` tell of clipped eigenvalues."""

    warnings: Sequence[str]


@dataclass(frozen=True)
class OutputsFacts(Facts):
    """A model's logits: their shape, and its errors in percent, None where there is nothing to
    measure."""

    errors: Mapping[str, float | None]
    rows: int
    columns: int


@dataclass(frozen=True)
class AttackFacts(Facts):
    """A fitted attacker: `in_process` or `distributed`, on how many rows, how good on the
    validation fold."""

    path: str
    rows: int
    validation_f1: float
    threshold: float
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class TracesFacts(Facts):
    """What a row's models give away besides their attacks. Lists are in the order of the sorted
    model ids.

    **Arguments:** `share`, `below`, `chance`, `p_value`, `found`: see `attack.metrics.traces`; None
    where there were too few models. `forget`, `unseen`: mean φ of each model; None where it could
    not be measured.
    """

    constant: bool
    share: float | None = None
    below: float | None = None
    chance: float | None = None
    p_value: float | None = None
    found: Sequence[int] = ()
    forget: Sequence[float] | None = None
    unseen: Sequence[float] | None = None


F = TypeVar("F", bound=Facts)


def facts_of(store: Store, key: str, kind: type[F]) -> F:
    """Returns what the finished unit `key` says of itself.

    **Raises:** `KeyError` where it is not in the store.
    """
    meta = store.meta(key)
    names = [item.name for item in dataclasses.fields(kind)]
    return kind(**{name: meta[name] for name in names if name in meta})
