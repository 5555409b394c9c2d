"""What a unit's result depends on, one frozen class for each kind of unit. Its JSON form is hashed
into the unit's key.

A field that came after the first version has `metadata=LATER`. It enters the key only where it is
not at its default, so that what was stored before is found again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar, NamedTuple

from attack.attacks.base import Attack
from attack.distances.base import PerSampleDivergence
from unlearn import Training
from unlearn.methods.base import Method

from ..base.values import Json, Object, canonical, plain
from ..recipe.choices import Choice
from ..recipe.options import LATER, settings_of


@dataclass(frozen=True)
class Spec:
    """The base of all: its fields are the unit's inputs, parents by their keys."""

    kind: ClassVar[str]

    def identity(self) -> dict[str, Json]:
        """Returns the JSON data that is hashed, and stored with the result."""
        found = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if "since" not in item.metadata or value != item.default:
                found[item.name] = _encoded(value)
        return found

    def canonical(self) -> str:
        """Returns the canonical JSON of `identity()`, put together from texts that specs have in
        common. A plan of a hundred thousand units asks for nothing else."""
        parts = []
        for name, is_later, default in _fields(type(self)):
            value = getattr(self, name)
            if not is_later or value != default:
                parts.append(f'"{name}":{_text(value)}')
        return f"{{{','.join(parts)}}}"

    @property
    def shares(self) -> str:
        """The key of a large input that units have in common: a worker loads it once for all of
        them."""
        return ""


_FIELDS: dict[type[Spec], tuple[tuple[str, bool, object], ...]] = {}


def _fields(kind: type[Spec]) -> tuple[tuple[str, bool, object], ...]:
    """Returns the fields of a kind of spec in the order of their names: whether each came after the
    first version, and its default."""
    if kind not in _FIELDS:
        fields = sorted(dataclasses.fields(kind), key=lambda item: item.name)
        _FIELDS[kind] = tuple((item.name, "since" in item.metadata, item.default) for item in fields)
    return _FIELDS[kind]


def _text(value: object) -> str:
    """Returns the canonical JSON of one field."""
    if isinstance(value, tuple) and all(isinstance(part, str | Outputs | Judged | Looked) for part in value):
        return canonical(value)  # names of outputs: JSON data as they are
    is_settings = not isinstance(value, str | int) and dataclasses.is_dataclass(value)
    return _settings_text(_Same(value)) if is_settings else canonical(_encoded(value))


class _Same:
    """Stands for one object in a cache, whatever it is equal to: settings need not be hashable."""

    __slots__ = ("value",)

    def __init__(self, value: object):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


@lru_cache(maxsize=4096)
def _settings_text(settings: _Same) -> str:
    """Returns the canonical JSON of settings. Thousands of units have the same."""
    return canonical(_encoded(settings.value))


def _encoded(value: object) -> Json:
    if value is None or isinstance(value, str | bool | int | float):  # most of them by far
        return value
    if isinstance(value, Choice):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return settings_of(value)
    if isinstance(value, list | tuple):
        return [_encoded(part) for part in value]
    return plain(value)


class Outputs(NamedTuple):
    """A model's outputs and what they are to an attack."""

    key: str
    role: str
    fold: str
    model_id: str


class Judged(NamedTuple):
    """A model's outputs, where role and fold are understood."""

    key: str
    model_id: str


@dataclass(frozen=True)
class TrainSpec(Spec):
    """A model trained from scratch. `indices` is `all`, or the digest of the sample ids; `labels`
    that of changed labels."""

    kind: ClassVar[str] = "train"
    dataset: str
    labels: str
    indices: str
    model: Choice
    training: Training
    seed: int
    threads: int = field(default=1, metadata=LATER)
    code: str = field(default="", metadata=LATER)  # fingerprint of a model that is not built in
    # seed, number of models, and which of them: rows that are no part of the split
    part: tuple[int, ...] = field(default=(), metadata=LATER)


@dataclass(frozen=True)
class RankSpec(Spec):
    """A score of every training sample, measured on `models`. `part`: seed and number of models of
    memorization."""

    kind: ClassVar[str] = "rank"
    dataset: str
    by: str
    models: tuple[str, ...]
    part: tuple[int, ...] = ()


@dataclass(frozen=True)
class GivenSpec(Spec):
    """A model that the user trained elsewhere: the digest of its weights, and how to build it."""

    kind: ClassVar[str] = "given"
    weights: str
    model: Choice
    code: str = ""  # fingerprint of a model that is not built in


@dataclass(frozen=True)
class MomentsSpec(Spec):
    """Second moments of all training data, whatever will be forgotten."""

    kind: ClassVar[str] = "moments"
    model: str
    augment: str | None
    dataset: str
    stride_one: bool = field(default=False, metadata=LATER)


@dataclass(frozen=True)
class BasisSpec(Spec):
    """The moments without the forget set's, decomposed: one for every γ, criterion and top-k.

    Where `clean` is set there are no `moments` to subtract from: they are those of the retained
    data.
    """

    kind: ClassVar[str] = "basis"
    moments: str
    model: str
    split: str
    # of the forget set's images; of the retained ones where `clean`
    augment: str | None = field(default=None, metadata=LATER)
    clean: bool = field(default=False, metadata=LATER)
    stride_one: bool = field(default=False, metadata=LATER)


@dataclass(frozen=True)
class FisherSpec(Spec):
    """A Fisher diagonal, or another statistic of its kind, of all training data, whatever will be
    forgotten."""

    kind: ClassVar[str] = "fisher"
    model: str
    dataset: str
    statistic: str
    code: str = field(default="", metadata=LATER)  # version of a statistic whose sums have changed


@dataclass(frozen=True)
class UnlearnSpec(Spec):
    """One method with its settings, on one model. Of `moments`, `basis` and `fisher` it has what
    the method may see."""

    kind: ClassVar[str] = "unlearn"
    model: str
    split: str
    method: str
    params: Method
    seed: int
    threads: int = field(default=1, metadata=LATER)
    moments: str = field(default="", metadata=LATER)
    basis: str = field(default="", metadata=LATER)
    fisher: str = field(default="", metadata=LATER)
    code: str = field(default="", metadata=LATER)  # fingerprint of a method that is not built in

    @property
    def shares(self) -> str:
        return self.basis or self.fisher


@dataclass(frozen=True)
class StepSpec(Spec):
    """The model after one step of forgetting in steps: it depends on the steps up to it, not on
    later ones."""

    kind: ClassVar[str] = "step"
    model: str
    moments: str
    method: str
    params: Object
    seed: int
    steps: tuple[str, ...]


@dataclass(frozen=True)
class RunningSpec(StepSpec):
    """The running moments after a step."""

    kind: ClassVar[str] = "running"


@dataclass(frozen=True)
class OutputsSpec(Spec):
    """Forget-set logits of one model; with `errors` also its errors on every part of the data."""

    kind: ClassVar[str] = "outputs"
    model: str
    split: str
    errors: bool
    # of the columns, where classes are removed
    classes: tuple[int, ...] = field(default=(), metadata=LATER)
    # whether errors on other data than D_f are among the classes that are left
    among_kept: bool = field(default=False, metadata=LATER)

    def with_errors(self) -> OutputsSpec:
        """Returns that of the same model with its errors."""
        return replace(self, errors=True, among_kept=bool(self.classes))


@dataclass(frozen=True)
class UnseenSpec(Spec):
    """Logits of one model on the first `limit` images of the test set, half of each of its
    halves."""

    kind: ClassVar[str] = "unseen"
    model: str
    split: str
    limit: int


@dataclass(frozen=True)
class RetainedSpec(Spec):
    """Logits of one model on `limit` retained images, drawn from `seed`."""

    kind: ClassVar[str] = "retained"
    model: str
    split: str
    limit: int
    seed: int


@dataclass(frozen=True)
class AttackSpec(Spec):
    """One candidate of an attack, fitted on `outputs`."""

    kind: ClassVar[str] = "attack"
    attack: str
    params: Attack
    outputs: tuple[Outputs, ...]
    code: str = field(default="", metadata=LATER)  # fingerprint of an attack that is not built in


@dataclass(frozen=True)
class ScoreSpec(Spec):
    """One row's models (`positive`) held against retrained ones (`negative`) by one attack.

    The attacker is the best of `candidates`, units that are fitted already, or is fitted on `fit`.
    `reference` are Retrain's models, where each row has an attacker of its own. `population` are
    outputs of all of them on unseen images.
    """

    kind: ClassVar[str] = "score"
    attack: str
    params: Attack
    candidates: tuple[str, ...]
    fit: tuple[Outputs, ...]
    positive: tuple[Judged, ...]
    negative: tuple[Judged, ...]
    reference: tuple[Judged, ...]
    seed: int
    measures: int
    code: str = field(default="", metadata=LATER)
    population: tuple[Outputs, ...] = field(default=(), metadata=LATER)


@dataclass(frozen=True)
class DistanceSpec(Spec):
    """How far one row's models are from retrained ones, sample by sample."""

    kind: ClassVar[str] = "distance"
    tested: tuple[Outputs, ...]
    negative: tuple[Outputs, ...]
    models: tuple[Outputs, ...]
    retrained: tuple[Outputs, ...]
    originals: tuple[Outputs, ...]
    divergences: tuple[tuple[str, PerSampleDivergence], ...]
    measures: int
    # of ε and of the intervals: raised where stored distances must not be taken for new ones
    version: int = field(default=0, metadata=LATER)


@dataclass(frozen=True)
class TracesSpec(Spec):
    """What one row's models give away of single samples, against retrained ones, and how they treat
    unseen images."""

    kind: ClassVar[str] = "traces"
    models: tuple[Outputs, ...]
    retrained: tuple[Outputs, ...]
    unseen: tuple[Outputs, ...]
    tail_fpr: float
    seed: int
    measures: int


class Looked(NamedTuple):
    """A model's outputs on retained and on unseen images."""

    retained: str
    unseen: str


@dataclass(frozen=True)
class CollateralSpec(Spec):
    """Retained and unseen images under one row's models, under retrained ones and before
    unlearning. `groups`: digest of each training image's group, empty where there are none."""

    kind: ClassVar[str] = "collateral"
    models: tuple[Looked, ...]
    retrained: tuple[Looked, ...]
    before: tuple[Looked, ...]
    groups: str
    seed: int
    version: int


@dataclass(frozen=True)
class PlainSpec(Spec):
    """Work that no experiment plans, described by plain data: a decoded dataset, a shared table, a
    sleep of a benchmark."""

    kind: str  # type: ignore[misc]
    values: Mapping[str, Json] = field(default_factory=dict)

    def identity(self) -> dict[str, Json]:
        return dict(self.values)

    def canonical(self) -> str:
        return canonical(self.identity())
