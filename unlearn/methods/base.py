"""What every unlearning method shares:

the base class, what it declares about itself, and its result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Required, TypedDict

import numpy as np
from torch import nn

from ..core.batches import EpochCallback, Loader
from ..core.errors import UnlearnError
from ..core.rounding import whole_part
from ..core.seeds import stream
from ..data.scenario import KINDS, Split
from ..models.probe import Probe
from ..moments.basis import CoreBasis
from ..moments.fisher import Fisher
from ..moments.moments import SecondMoments
from ..training.graphs import Graphs
from ..training.recipe import OPTIMIZERS

_SHARE = 4  # names the random stream
ACCESS = ("forget", "moments", "fisher", "retain_share", "retain")


@dataclass
class UnlearnResult:
    """An unlearned model and how it came about.

    **Arguments:**

    - `model`: a new module; the one given to the method is left untouched.
    - `history`: one dict for each epoch, epoch 0 being the model as given where the method
        evaluates it.
    - `stopped_at`: the epoch whose weights `model` carries where an early stop chose one, else
        None.
    - `notes`: sentences for the user, such as clipped eigenvalues.
    """

    model: nn.Module
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped_at: int | None = None
    notes: list[str] = field(default_factory=list)


class Inputs(TypedDict, total=False):
    """What `Method.unlearn` takes beside the model."""

    forget: Required[Loader]
    retain: Loader | None
    moments: SecondMoments | CoreBasis | None
    fisher: Fisher | None
    validation: Loader | None
    num_classes: int | None
    forget_classes: tuple[int, ...]
    monitor: Mapping[str, Loader] | None
    on_epoch: EpochCallback | None
    graphs: Graphs | None


@dataclass(frozen=True)
class Needs:
    """What one configuration of a method must be given. The caller hands over nothing more.

    **Arguments:**

    - `access`: the data that it sees beside the forget set. `forget` is none. `moments` and
        `fisher` are stored statistics of the training data: second moments, or the Fisher diagonal.
        `retain_share` is a share of the retain set, `retain` all of it.
    - `share`: the share of the retain set that is handed over, in [0, 1]. It is drawn once, from
        the seed.
    - `validation`: held-out samples. `monitor`: loaders `retain` and `test` that are only
        evaluated. `watched`: the one of them whose accuracy ends the method; empty where none does.
    - `graphs`: captured training steps of earlier models (see `unlearn.train`).
    - `statistic`: which one `fisher` is, see `Fisher`.
    - `batch_size`, `augment`: how the loaders are built.
    - `order`: `given`, or `class`: the forget set class by class (see `in_order`).
    - `clean_moments`: the moments are computed without the forget set, and none are subtracted.
    - `stride_one`: the moments come from patches at stride 1 (see `second_moments`).
    """

    access: str = "forget"
    share: float = 0.0
    validation: bool = False
    monitor: bool = False
    watched: str = ""
    graphs: bool = False
    statistic: str = "fisher"
    batch_size: int = 128
    augment: str | None = None
    order: str = "given"
    clean_moments: bool = False
    stride_one: bool = False

    def __post_init__(self) -> None:
        if self.access not in ACCESS:
            raise ValueError(f"access: {self.access!r} is not allowed; allowed are {', '.join(ACCESS)}")

    @property
    def retain(self) -> float:
        """The share of the retain set that the method may see."""
        return {"retain": 1.0, "retain_share": self.share}.get(self.access, 0.0)

    def names(self) -> frozenset[str]:
        """Names of the optional arguments of `unlearn` that are needed."""
        wanted = {
            "moments": self.access == "moments",
            "fisher": self.access == "fisher",
            "retain": self.retain > 0,
            "validation": self.validation,
            "monitor": self.monitor,
        }
        return frozenset(name for name, needed in wanted.items() if needed)


@dataclass(frozen=True)
class Steps:
    """How a method forgets a set that grows step by step.

    **Arguments:**

    - `size`: samples of each class in one step; None for the scenario's own steps.
    - `fail_points`: stop once test accuracy has fallen by more points than this; None goes through
        all steps.
    - `recompute_moments`: compute the moments of the remaining data anew before each step.
    - `recover_epochs`, `recover_lr`: fine-tuning on the remaining data after the last step.
    - `audit_every`: steps between measurements of what confidence gives away; None: never.
    """

    size: int | None = None
    fail_points: float | None = None
    recompute_moments: bool = False
    recover_epochs: int = 0
    recover_lr: float = 0.005
    audit_every: int | None = None


@dataclass(frozen=True)
class Card:
    """What people should know about a method before they use it.

    **Arguments:**

    - `title`: its name in print. `formula`: what it computes, in one or two lines.
    - `paper`: authors, place, year or arXiv number. `passes`: its cost in passes over the data, in
        words.
    - `deviations`: where it knowingly differs from the paper or from the released code, and why.
    """

    title: str
    formula: str = ""
    paper: str = ""
    passes: str = ""
    deviations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preset:
    """A published setting: the values of its fields and where they come from."""

    values: Mapping[str, Any]
    source: str


@dataclass(frozen=True)
class Range:
    """The values of a field that a search tries:

    from `low` to `high`, evenly, or evenly in the logarithm.
    """

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """The values of a field that a search tries, one by one."""

    values: tuple[Any, ...]


Ranges = Mapping[str, Range | Choice]  # by field
Presets = Mapping[str, Preset]  # by name

# Of fields that methods share with `Training`.
TRAINING: Ranges = {
    "optimizer": Choice(OPTIMIZERS),
    "lr": Range(1e-5, 0.1, log=True),
    "final_lr": Choice((None, 1e-5, 1e-4)),
    "momentum": Choice((0.0, 0.5, 0.9)),
    "weight_decay": Choice((0.0, 1e-4, 5e-4)),
    "epochs": Choice((1, 2, 5, 10, 20)),
    "batch_size": Choice((32, 64, 128, 256)),
    "augment": Choice((None, "flip", "crop_flip")),
}


def share_of(rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Returns ⌊share·n⌋ of `rows` (one at the least), sorted, drawn once from `seed`; all of them
    for a share of 1.
    """
    if share >= 1.0:
        return rows
    count = max(1, whole_part(share * len(rows)))
    return np.sort(stream(seed, _SHARE).permutation(rows)[:count])


def in_order(rows: np.ndarray, order: str, labels: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Returns `rows` in the order in which a method wants the forget set.

    `given` leaves them. `class` goes class by class, each in its own order. Samples whose label was
    swapped go pair by pair, one of each class in turn.

    **Arguments:** `labels`, `trained`: int64 `(n,)`, the true labels and those trained on.
    """
    if order == "given":
        return rows
    own, given = labels[rows], trained[rows]
    lesser, greater = np.minimum(own, given), np.maximum(own, given)
    rank = np.zeros(len(rows), dtype=np.int64)
    for label in np.unique(own):
        members = np.flatnonzero(own == label)
        rank[members] = np.arange(len(members))
    return rows[np.lexsort((own, rank, greater, lesser))]


@dataclass(frozen=True)
class Method(ABC):
    """An unlearning method: a frozen dataclass whose fields are its hyperparameters and its recipe
    keys.

    A subclass sets `name`, and `unlearn` at the least. Everything else has a default.

    **Class attributes:**

    - `name`: what recipes call it. `access`: the most data that any configuration sees (see
        `Needs`).
    - `scenarios`: the kinds of scenario that it is for.
    - `inherits`: fields that take the value of the recipe's `training` where a recipe does not set
        them.
    - `for_classes`: what recipes take instead of the defaults where whole classes are forgotten.
    - `in_steps`: whether it is only for scenarios that forget in steps.
    - `selectable`: whether a recipe may name it; false for rows that every run has.
    - `version`: of what the method computes, 2 or more; stored results of an earlier one are not
      used. Without one it is the first.
    - `retired`: options that earlier versions had, with their defaults. They stay in the keys of
        stored work.
    - `card`, `presets`: for people. `ranges`: the values of each field that a search tries, added
        to those of the classes that it derives from. `fixed`: fields that no search should vary,
        such as a seed, or what decides which data are seen; added to likewise.
    - `examples`: options that suit a tiny problem, where the defaults do not; the conformance suite
        runs with them.
    """

    name: ClassVar[str]
    access: ClassVar[str] = "forget"
    scenarios: ClassVar[frozenset[str]] = frozenset(KINDS)
    inherits: ClassVar[frozenset[str]] = frozenset()
    for_classes: ClassVar[Mapping[str, Any]] = {}
    in_steps: ClassVar[bool] = False
    retired: ClassVar[Mapping[str, Any]] = {}
    selectable: ClassVar[bool] = True
    card: ClassVar[Card] = Card("")
    presets: ClassVar[Presets] = {}
    ranges: ClassVar[Ranges] = {}
    fixed: ClassVar[frozenset[str]] = frozenset({"seed", "precision"})
    examples: ClassVar[Mapping[str, Any]] = {}

    def needs(self) -> Needs:
        """What this configuration must be given."""
        return Needs(access=self.access)

    def requires(self) -> frozenset[str]:
        """Names of the optional arguments of `unlearn` that this configuration needs."""
        return self.needs().names()

    def steps(self) -> Steps:
        """How this configuration forgets a set that grows step by step."""
        return Steps()

    @classmethod
    def fits(cls, kind: str) -> bool:
        """Whether the method is for scenarios of this kind."""
        return kind in cls.scenarios and (not cls.in_steps or kind == "incremental")

    def check(self, split: Split) -> None:
        """Raises `UnlearnError` where this configuration cannot forget what `split` asks for."""
        if self.in_steps and len(split.steps) < 2:
            raise UnlearnError(
                f"scenario.kind: {split.kind!r} is not allowed; {self.name} forgets in steps: give incremental"
            )
        if split.kind not in self.scenarios:
            allowed = " or ".join(kind for kind in KINDS if kind in self.scenarios)
            raise UnlearnError(f"scenario.kind: {split.kind!r} is not allowed; {self.name} is for {allowed}")

    def check_model(self, model: nn.Module, looked: Probe) -> None:  # noqa: B027
        """Raises `UnlearnError` where this configuration cannot work on a model, as `looked` found
        it."""

    def parts(self) -> tuple[Method, ...]:
        """Returns the methods that do the work: this one, and what it is made of."""
        return (self,)

    def passes(self) -> int:
        """About how many passes over the data the method makes; for estimates of time."""
        return 1

    @classmethod
    def space(cls) -> dict[str, Range | Choice]:
        """Returns the values that a search tries, by field: `ranges` of the class and its bases,
        less what is `fixed`.
        """
        found: dict[str, Range | Choice] = {}
        for kind in reversed(cls.__mro__):
            found |= vars(kind).get("ranges", {})
        fixed = cls.held_fixed()
        return {name: values for name, values in found.items() if name not in fixed}

    @classmethod
    def held_fixed(cls) -> frozenset[str]:
        """Returns the fields that no search should vary: `fixed` of the class and its bases."""
        return frozenset().union(*(vars(kind).get("fixed", ()) for kind in cls.__mro__))

    def idle(self) -> frozenset[str]:
        """Returns the fields that have no effect beside the others' values."""
        return frozenset()

    @classmethod
    def translate(cls, options: Mapping[str, Any]) -> tuple[type[Method], dict[str, Any]]:
        """Returns the class and its options for the options of a recipe, which may use an older
        spelling.
        """
        return cls, {name: value for name, value in options.items() if name not in cls.retired}

    @classmethod
    def of(cls, **options: Any) -> Method:
        """Returns the method with options as a recipe gives them:

        older spellings, and settings of settings flat.
        """
        kind, given = cls.translate(options)
        for item in fields(kind):
            inner = item.default_factory
            if isinstance(inner, type) and is_dataclass(inner):
                names = [each.name for each in fields(inner) if each.name in given]
                given[item.name] = inner(**{name: given.pop(name) for name in names})
        return kind(**given)

    @abstractmethod
    def unlearn(
        self,
        model: nn.Module,
        *,
        forget: Loader,
        retain: Loader | None = None,
        moments: SecondMoments | CoreBasis | None = None,
        fisher: Fisher | None = None,
        validation: Loader | None = None,
        num_classes: int | None = None,
        forget_classes: tuple[int, ...] = (),
        monitor: Mapping[str, Loader] | None = None,
        on_epoch: EpochCallback | None = None,
        graphs: Graphs | None = None,
    ) -> UnlearnResult:
        """Returns an unlearned copy of `model`; the one given is left untouched.

        **Arguments:** those that `needs` names must be given; the others are not looked at.
        `monitor` holds named loaders that are only evaluated, `on_epoch` is called with each row of
        the history.

        Raises `UnlearnError` where an argument is missing or a setting cannot work.
        """
