"""Which samples are to be forgotten, and how the data are split for that, drawn from a seed before
any training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..core.checked import check_integer
from ..core.errors import did_you_mean
from ..core.seeds import check_seed, stream
from . import ImageDataset
from .forget_set import (
    ORDERS,
    Column,
    check_per_class,
    check_select,
    check_where,
    near_duplicates,
    ranked,
    read_ids,
    read_requests,
    rows_of_ids,
    rows_where,
    share_of,
    up_to,
)

KINDS = ("samples", "classes", "poison", "incremental")
# What may say which samples are forgotten: one of these for each kind.
_CHOICES = {
    "samples": ("per_class", "ids", "fraction", "where", "duplicates_of"),
    "classes": ("classes",),
    "poison": ("count",),
    "incremental": ("step", "requests"),
}
_BESIDE = {"step": ("steps",), "duplicates_of": ("duplicate_bits",)}
_SELECTED = ("per_class", "fraction", "count", "step")  # those for which `select` has a meaning
# One random stream for each purpose, so that the halves of the test set are the same in every
# scenario of a seed.
_TEST_HALVES, _SELECTION, _PAIRS = 1, 2, 3
_BITS = 4  # of 64, in which perceptual hashes of near-identical images differ at most
_LISTED = 20  # duplicates that a note names


@dataclass(frozen=True)
class Scenario:
    """What is to be forgotten.

    **Arguments:**

    - `kind`: `samples`: some samples; `classes`: every sample of some classes; `poison`: samples
        whose labels were swapped between paired classes; `incremental`: samples in steps.
    - `per_class`: so many samples of each class (`samples`).
    - `ids`: samples by id, a list or a CSV, Parquet or text file (`samples`). Ids are values of
        `dataset.id_column`, or row numbers where the source has none.
    - `fraction`: a share of the training data, from each class alike (`samples`).
    - `where`: every sample whose value in a column of the source passes a test (`samples`):
        `{column: user_id, in: [u17, u42]}`, `{column: age, from: 60, to: 70}` or
        `{column: camera, equals: 3}`. Both ends of a range belong to it.
    - `duplicates_of`: these ids and every near-identical image (`samples`).
    - `duplicate_bits`: bits out of 64 in which perceptual hashes of near-identical images may
        differ (`duplicates_of`); None: 4.
    - `classes`: numbers or names of classes (`classes`).
    - `count`: poisoned samples in all, spread evenly over the classes (`poison`).
    - `step`, `steps`: samples of each class a step, and how many steps (`incremental`).
    - `requests`: a CSV or Parquet file with columns `id` and `order` (`incremental`). Samples with
        the same order are forgotten together.
    - `select`: which samples of a class: the `first` in dataset order, drawn at `random`, or chosen
        by a score that models give: `{by: memorization, order: highest}`. The others are `loss`,
        `confidence` and `margin`; the order may be `lowest`. `models`: how many models memorization
        is measured on; 10 where it is left out.

    Raises `ValueError` where a field is missing, out of range or belongs to another kind.
    """

    kind: str = "samples"
    per_class: int | None = None
    classes: tuple[int | str, ...] = ()
    count: int | None = None
    step: int | None = None
    steps: int | None = None
    select: str | Mapping[str, object] = "first"
    ids: str | tuple[int | str, ...] | None = None
    fraction: float | None = None
    where: Mapping[str, object] | None = None
    duplicates_of: str | tuple[int | str, ...] | None = None
    duplicate_bits: int | None = None
    requests: str | None = None

    def __post_init__(self) -> None:
        for field in ("classes", "ids", "duplicates_of"):
            value = getattr(self, field)
            if isinstance(value, list | tuple):
                object.__setattr__(self, field, tuple(value))
        if self.kind not in KINDS:
            hint = did_you_mean(self.kind, KINDS)
            raise ValueError(f"scenario.kind: {self.kind!r} is not allowed; allowed are {', '.join(KINDS)}{hint}")
        check_select(self.select)
        choice = self._choice()
        for field in dict.fromkeys(
            each for kind in KINDS for one in _CHOICES[kind] for each in (one, *_BESIDE.get(one, ()))
        ):
            if field != choice and field not in _BESIDE.get(choice, ()) and getattr(self, field) not in (None, ()):
                value = getattr(self, field)
                shown = list(value) if isinstance(value, tuple) else value
                raise ValueError(
                    f"scenario.{field}: {shown!r} has no meaning for kind {self.kind!r}, which takes "
                    f"{' or '.join(_CHOICES[self.kind])}; leave it out"
                )
        if self.select != "first" and choice not in _SELECTED:
            raise ValueError(f"scenario.select: {self.select!r} has no meaning with {choice}; leave it out")
        if self.scored and self.kind == "poison":
            raise ValueError(
                f"scenario.select: {dict(self.scored)} has no meaning for kind 'poison': models that give scores would "
                "be trained on labels that the scores choose; give first or random"
            )
        for field in (choice, *_BESIDE.get(choice, ())):
            self._check(field)

    @property
    def scored(self) -> Mapping[str, object] | None:
        """What `select` says where trained models' scores choose the samples; None where none are
        needed."""
        return self.select if isinstance(self.select, Mapping) else None

    def _choice(self) -> str:
        """Returns the one field that says which samples are forgotten."""
        choices = _CHOICES[self.kind]
        given = [name for name in choices if getattr(self, name) not in (None, ())]
        if len(given) > 1:
            raise ValueError(
                f"scenario.{given[1]}: {getattr(self, given[1])!r} is not allowed beside {given[0]}; give one of "
                f"{', '.join(choices)}"
            )
        return given[0] if given else choices[0]

    def _check(self, field: str) -> None:
        value = getattr(self, field)
        problem = f"scenario.{field}: {list(value) if isinstance(value, tuple) else value!r} is not allowed; give "
        if field in ("per_class", "count", "step", "steps"):
            check_integer(f"scenario.{field}", value, 1)
        elif field == "duplicate_bits":
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 16):
                raise ValueError(f"{problem}an integer from 0 to 16")
        elif field == "fraction":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                raise ValueError(f"{problem}a number above 0 and below 1")
        elif field == "classes":
            if not value or len(set(value)) != len(value):
                raise ValueError(f"{problem}numbers or names of classes, each once")
            for label in value:
                negative = isinstance(label, int) and label < 0
                if isinstance(label, bool) or not isinstance(label, int | str) or negative:
                    raise ValueError(f"scenario.classes: {label!r} is not allowed; give numbers from 0, or names")
        elif field == "where":
            check_where(value)
        elif field == "requests":
            if not isinstance(value, str) or not value:
                raise ValueError(f"{problem}a CSV or Parquet file")
        elif not isinstance(value, str | tuple) or any(
            isinstance(each, bool) or not isinstance(each, int | str) for each in value
        ):
            raise ValueError(f"{problem}a list of ids or a file of them")


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
    - `notes`: what to say before anything runs, such as duplicates that were found.
    """

    forget: np.ndarray
    retain: np.ndarray
    val: np.ndarray
    test: np.ndarray
    forget_classes: tuple[int, ...]
    labels: np.ndarray
    poisoned: np.ndarray
    steps: tuple[np.ndarray, ...]
    notes: tuple[str, ...] = ()

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
        forget, retain, val, test = (arrays[name] for name in ("forget", "retain", "val", "test"))
        classes = tuple(int(label) for label in arrays["forget_classes"])
        steps = tuple(np.split(arrays["step_rows"], bounds))
        return cls(forget, retain, val, test, classes, arrays["labels"], arrays["poisoned"], steps)


def make_split(
    dataset: ImageDataset,
    scenario: Scenario,
    seed: int,
    *,
    ids: np.ndarray | None = None,
    column: Column | None = None,
    scores: np.ndarray | None = None,
) -> Split:
    """Splits `dataset` for `scenario`; everything random is drawn from `seed`.

    **Arguments:**

    - `ids`: `(n,)`, the id of each training row; None: ids are row numbers.
    - `column`: returns a column of the training data, `(n,)`, by its name.
    - `scores`: float64 `(n,)` or `(n, k)`, what `scenario.select` chooses by; see `ranked`.

    Raises `ValueError` where the scenario asks for more than the dataset holds, or for nothing to
    be retained.
    """
    check_seed(seed)
    labels = dataset.train.labels
    order = [np.flatnonzero(labels == label) for label in range(dataset.num_classes)]
    if scenario.select == "random":
        order = [stream(seed, _SELECTION, label).permutation(rows) for label, rows in enumerate(order)]
    if scenario.scored:
        if scores is None:
            raise ValueError("scenario.select: scores of trained models are needed; `orchestrator run` measures them")
        how = str(scenario.scored.get("order", ORDERS[0]))
        order = [ranked(rows, scores, how) for rows in order]
    trained = labels
    poisoned = np.zeros(0, dtype=np.int64)
    forget_classes: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    if scenario.kind == "samples":
        rows, notes = _samples(dataset, scenario, order, ids, column)
        steps = [rows]
    elif scenario.requests is not None:
        steps = read_requests(scenario.requests, ids, len(labels))
    elif scenario.kind == "incremental":
        assert scenario.step is not None
        assert scenario.steps is not None
        check_per_class("steps", scenario.steps, scenario.step * scenario.steps, order, each=scenario.step)
        starts = [step * scenario.step for step in range(scenario.steps)]
        steps = [np.concatenate([rows[start : start + scenario.step] for rows in order]) for start in starts]
    elif scenario.kind == "classes":
        forget_classes, notes = _classes(dataset, scenario.classes)
        for label in forget_classes:
            if len(order[label]) == 0:
                raise ValueError(f"scenario.classes: class {label} has no training images; raise dataset.limit.train")
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
    lost = np.setdiff1d(labels[forget], labels[retain])
    if len(lost) and not forget_classes:
        names = ", ".join(dataset.class_names[label] for label in lost)
        notes += (f"every sample of class {names} is forgotten; kind classes leaves such classes out of the tests",)
    val, test = _halves(dataset, forget_classes, seed)
    return Split(forget, retain, val, test, forget_classes, trained, np.sort(poisoned), tuple(steps), notes)


def _classes(dataset: ImageDataset, given: tuple[int | str, ...]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Returns the numbers of classes given by number or name, and a note of their names."""
    names = dataset.class_names
    named = any(name != str(number) for number, name in enumerate(names))
    numbers = []
    for label in given:
        number = label if isinstance(label, int) else names.index(label) if label in names else len(names)
        if number >= len(names):
            allowed = f"0 to {len(names) - 1}"
            if named:
                allowed += f", or names such as {names[0]!r}{did_you_mean(label, names)}"
            raise ValueError(f"scenario.classes: {label!r} is no class of {dataset.name}; allowed are {allowed}")
        numbers.append(number)
    numbers.sort()
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"scenario.classes: {list(given)} is not allowed; give each class once")
    shown = ", ".join(f"{number} ({names[number]})" for number in numbers)
    return tuple(numbers), (f"classes to forget: {shown}",) if named else ()


def _samples(
    dataset: ImageDataset,
    scenario: Scenario,
    order: list[np.ndarray],
    ids: np.ndarray | None,
    column: Column | None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the rows that kind `samples` forgets, and what there is to say of them."""
    count = len(dataset.train)
    if scenario.ids is not None:
        return rows_of_ids(read_ids(scenario.ids, "scenario.ids", ids), ids, count, "scenario.ids"), ()
    if scenario.duplicates_of is not None:
        field, bits = "scenario.duplicates_of", _BITS if scenario.duplicate_bits is None else scenario.duplicate_bits
        asked = rows_of_ids(read_ids(scenario.duplicates_of, field, ids), ids, count, field)
        found = near_duplicates(dataset.train.images, asked, bits)
        named = ", ".join(str(row if ids is None else ids[row]) for row in found[:_LISTED])
        shown = named + (" …" if len(found) > _LISTED else "")
        note = f"{len(asked)} images have {len(found)} near-identical ones, forgotten too: {shown or 'none'}"
        return np.concatenate([asked, found]), (note,)
    if scenario.where is not None:
        if column is None:
            raise ValueError("scenario.where: the data are images and labels only; a source with columns is needed")
        return rows_where(scenario.where, column), ()
    if scenario.fraction is not None:
        return share_of(scenario.fraction, order), ()
    assert scenario.per_class is not None
    check_per_class("per_class", scenario.per_class, scenario.per_class, order)
    return np.concatenate([rows[: scenario.per_class] for rows in order]), ()


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
                f"{up_to(room)}"
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
