"""Which samples are to be forgotten, and how the data are split for that, drawn from a seed before
any training.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..core.seeds import check_seed, stream
from . import ImageDataset

KINDS = ("samples", "classes", "poison", "incremental")
_FIELDS = {
    "samples": {"per_class", "select"},
    "classes": {"classes"},
    "poison": {"count", "select"},
    "incremental": {"step", "steps", "select"},
}
# One random stream for each purpose, so that the halves of the test set are the same in every
# scenario of a seed.
_TEST_HALVES, _SELECTION, _PAIRS = 1, 2, 3


@dataclass(frozen=True)
class Scenario:
    """What is to be forgotten.

    **Arguments:**

    - `kind`: `samples`: some of every class; `classes`: every sample of some classes; `poison`:
        samples whose labels were swapped between paired classes; `incremental`: `samples` in steps.
    - `per_class`: samples of each class (`samples`).
    - `classes`: class numbers (`classes`).
    - `count`: poisoned samples in all, spread evenly over the classes (`poison`).
    - `step`, `steps`: samples of each class a step, and how many steps (`incremental`).
    - `select`: which samples of a class: the `first` in dataset order, or drawn at `random`.

    Raises `ValueError` where a field is missing, out of range or belongs to another kind.
    """

    kind: str = "samples"
    per_class: int | None = None
    classes: tuple[int, ...] = ()
    count: int | None = None
    step: int | None = None
    steps: int | None = None
    select: str = "first"

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        if self.kind not in KINDS:
            near = difflib.get_close_matches(str(self.kind), KINDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"scenario.kind: {self.kind!r} is not allowed; allowed are {', '.join(KINDS)}{hint}")
        if self.select not in ("first", "random"):
            raise ValueError(f"scenario.select: {self.select!r} is not allowed; allowed are first and random")
        for field in ("per_class", "count", "step", "steps"):
            value = getattr(self, field)
            if field not in _FIELDS[self.kind]:
                if value is not None:
                    raise ValueError(f"scenario.{field}: {value!r} has no meaning for kind {self.kind!r}; leave it out")
            elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"scenario.{field}: {value!r} is not allowed; give an integer of 1 or more")
        if self.kind == "classes":
            if not self.classes or len(set(self.classes)) != len(self.classes):
                raise ValueError(
                    f"scenario.classes: {list(self.classes)!r} is not allowed; give class numbers, each once"
                )
            for label in self.classes:
                if isinstance(label, bool) or not isinstance(label, int) or label < 0:
                    raise ValueError(f"scenario.classes: {label!r} is not allowed; give class numbers from 0")
        elif self.classes:
            raise ValueError(
                f"scenario.classes: {list(self.classes)!r} has no meaning for kind {self.kind!r}; leave it out"
            )


@dataclass(frozen=True, eq=False)
class Split:
    """The rows of each part of the data. All arrays are int64 and sorted; rows of `forget` and
    `retain` are sample ids.

    **Arguments:**

    - `forget`, `retain`: rows of the training set; together all of it.
    - `val`, `test`: rows of the test set: two halves of each class, `val` for early stopping,
        `test` for reporting. Classes that are forgotten are in neither.
    - `forget_classes`: classes forgotten altogether.
    - `labels`: `(n,)`, the training labels that models are trained on; poisoned ones differ from
        the dataset's.
    - `poisoned`: rows of the training set whose label is poisoned.
    - `steps`: the parts of `forget`, in the order in which they are forgotten.
    """

    forget: np.ndarray
    retain: np.ndarray
    val: np.ndarray
    test: np.ndarray
    forget_classes: tuple[int, ...]
    labels: np.ndarray
    poisoned: np.ndarray
    steps: tuple[np.ndarray, ...]

    @property
    def kind(self) -> str:
        """The kind of scenario that gave this split. A scenario of one step forgets `samples`."""
        if self.forget_classes:
            return "classes"
        return "poison" if len(self.poisoned) else "incremental" if len(self.steps) > 1 else "samples"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every part, in hexadecimal."""
        sha = hashlib.sha256()
        for name, array in sorted(self.to_arrays().items()):
            sha.update(f"{name} {array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything as int64 arrays, for an array file or an object store; `from_arrays` reads
        them back.
        """
        return {
            "forget": self.forget,
            "retain": self.retain,
            "val": self.val,
            "test": self.test,
            "forget_classes": np.array(self.forget_classes, dtype=np.int64),
            "labels": self.labels,
            "poisoned": self.poisoned,
            "step_sizes": np.array([len(step) for step in self.steps], dtype=np.int64),
            "step_rows": np.concatenate(self.steps).astype(np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Split:
        """The split that `to_arrays` gave."""
        bounds = np.cumsum(arrays["step_sizes"])[:-1]
        return cls(
            **{name: arrays[name] for name in ("forget", "retain", "val", "test", "labels", "poisoned")},
            forget_classes=tuple(int(label) for label in arrays["forget_classes"]),
            steps=tuple(np.split(arrays["step_rows"], bounds)),
        )


def make_split(dataset: ImageDataset, scenario: Scenario, seed: int) -> Split:
    """Splits `dataset` for `scenario`; everything random is drawn from `seed`.

    Raises `ValueError` where the scenario asks for more than the dataset holds, or for nothing to
    be retained.
    """
    check_seed(seed)
    labels = dataset.train.labels
    order = [np.flatnonzero(labels == label) for label in range(dataset.num_classes)]
    if scenario.select == "random":
        order = [stream(seed, _SELECTION, label).permutation(rows) for label, rows in enumerate(order)]
    trained = labels
    poisoned = np.zeros(0, dtype=np.int64)
    forget_classes: tuple[int, ...] = ()
    if scenario.kind == "samples":
        assert scenario.per_class is not None
        _check_per_class("per_class", scenario.per_class, scenario.per_class, order)
        steps = [np.concatenate([rows[: scenario.per_class] for rows in order])]
    elif scenario.kind == "incremental":
        assert scenario.step is not None
        assert scenario.steps is not None
        _check_per_class("steps", scenario.steps, scenario.step * scenario.steps, order, each=scenario.step)
        starts = [step * scenario.step for step in range(scenario.steps)]
        steps = [np.concatenate([rows[start : start + scenario.step] for rows in order]) for start in starts]
    elif scenario.kind == "classes":
        for label in scenario.classes:
            if label >= dataset.num_classes:
                raise ValueError(
                    f"scenario.classes: {label} is no class of {dataset.name}; allowed are 0 to "
                    f"{dataset.num_classes - 1}"
                )
            if len(order[label]) == 0:
                raise ValueError(f"scenario.classes: class {label} has no training images; raise dataset.limit.train")
        forget_classes = tuple(sorted(scenario.classes))
        steps = [np.concatenate([order[label] for label in forget_classes])]
    else:
        assert scenario.count is not None
        poisoned, trained = _poison(order, labels, scenario.count, seed)
        steps = [poisoned]
    steps = [np.sort(step).astype(np.int64) for step in steps]
    forget = np.sort(np.concatenate(steps))
    retain = np.setdiff1d(np.arange(len(labels)), forget)
    if len(retain) == 0:
        raise ValueError(f"scenario: all {len(labels)} training images would be forgotten; leave some to retain")
    val, test = _halves(dataset, forget_classes, seed)
    return Split(forget, retain, val, test, forget_classes, trained, np.sort(poisoned), tuple(steps))


def _check_per_class(field: str, value: int, needed: int, order: list[np.ndarray], each: int = 1) -> None:
    smallest = min(range(len(order)), key=lambda label: len(order[label]))
    if needed > len(order[smallest]):
        raise ValueError(
            f"scenario.{field}: {value} takes {needed} samples of each class, but class {smallest} has only "
            f"{len(order[smallest])}; allowed are 1 to {len(order[smallest]) // each}"
        )


def _poison(order: list[np.ndarray], labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to poison and the labels with those rows swapped.

    Classes are shuffled and paired; a sample's label becomes the pair's other class. With an odd
    number of classes the last one of the shuffle stays clean. What does not divide evenly goes to
    the first classes of the shuffle.
    """
    shuffled = stream(seed, _PAIRS).permutation(len(order))
    paired = shuffled[: len(shuffled) // 2 * 2]
    if len(paired) == 0:
        raise ValueError("scenario.kind: poison needs at least two classes to swap labels between")
    trained = labels.copy()
    chosen = []
    for place, label in enumerate(paired):
        wanted = count // len(paired) + (place < count % len(paired))
        if wanted > len(order[label]):
            room = min(len(order[other]) for other in paired) * len(paired)
            raise ValueError(
                f"scenario.count: {count} takes {wanted} samples of class {label}, which has only {len(order[label])}; "
                f"allowed are 1 to {room}"
            )
        rows = order[label][:wanted]
        trained[rows] = paired[place ^ 1]
        chosen.append(rows)
    return np.concatenate(chosen), trained


def _halves(dataset: ImageDataset, forget_classes: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of the test set, class by class; odd samples go to each half in turn."""
    halves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    odd = 0
    for label in range(dataset.num_classes):
        rows = stream(seed, _TEST_HALVES, label).permutation(np.flatnonzero(dataset.test.labels == label))
        middle = (len(rows) + odd) // 2
        odd = (odd + len(rows)) % 2
        if label not in forget_classes:
            halves[0].append(rows[:middle])
            halves[1].append(rows[middle:])
    val, test = (np.sort(np.concatenate(half)).astype(np.int64) for half in halves)
    if len(val) == 0 or len(test) == 0:
        raise ValueError("scenario: the test set leaves nothing for one of its halves; raise dataset.limit.test")
    return val, test
