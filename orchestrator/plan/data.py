"""The experiment's data: decoded once, kept as uint8, shared by every unit; and the split, drawn
before any training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from unlearn import SOURCES, ImageDataset, Split, load_dataset, make_split
from unlearn.data import fingerprint, read_column

from ..base.documents import DataSummary
from ..base.errors import Fault, RecipeError, first_line
from ..recipe.checks import model_faults
from ..recipe.options import fault_from
from ..recipe.sections import Recipe
from ..store import CorruptObject, Store
from .code import code_of
from .last_batch import last_batch_notes
from .selection import selection_units, stored_scores
from .specs import PlainSpec
from .trained import array_digest
from .units import Unit

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ExperimentData:
    """A decoded dataset and its split into forget, retain, validation and test sets."""

    dataset: ImageDataset
    split: Split
    ids: np.ndarray | None = None  # of training rows, the source's own; only the driver has them
    # of `outputs.group`: the group of each training row, int64 `(n,)`
    groups: np.ndarray | None = None
    group_names: tuple[str, ...] = ()  # only the driver has them
    # by which the forget set was chosen, float64 `(n, 2)`; only the driver has them
    scores: np.ndarray | None = None
    # whether the scores that choose the forget set are still to be measured
    stand_in: bool = False

    @property
    def digest(self) -> str:
        return str(self.dataset.digest)

    @property
    def split_digest(self) -> str:
        return str(self.split.digest)

    @cached_property
    def labels_digest(self) -> str:
        """Digest of the labels trained on where they are not the data's own (poison), else an empty
        text."""
        if np.array_equal(self.split.labels, self.dataset.train.labels):
            return ""
        return array_digest(self.split.labels)

    def indices_digest(self, indices: np.ndarray | None) -> str:
        """Returns `all` for the whole training set, else the digest of the sample ids."""
        return "all" if indices is None else array_digest(indices)

    @cached_property
    def kept_classes(self) -> np.ndarray:
        """The classes that are not forgotten; all of them unless whole classes are removed."""
        return np.setdiff1d(np.arange(self.dataset.num_classes), np.asarray(self.split.forget_classes, dtype=np.int64))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns everything as a flat mapping of arrays: what Ray's object store shares without
        copying."""
        parts = {"dataset": self.dataset.to_arrays(), "split": self.split.to_arrays()}
        if self.groups is not None:
            parts["groups"] = {"codes": self.groups}
        return {f"{part}/{name}": array for part, arrays in parts.items() for name, array in arrays.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> ExperimentData:
        def part(prefix: str) -> dict[str, np.ndarray]:
            return {
                name.removeprefix(f"{prefix}/"): array
                for name, array in arrays.items()
                if name.startswith(f"{prefix}/")
            }

        groups = part("groups").get("codes")
        return cls(ImageDataset.from_arrays(part("dataset")), Split.from_arrays(part("split")), groups=groups)

    def summary(self) -> DataSummary:
        """Returns the facts about the data that results and runs carry."""
        split = self.split
        return {
            "dataset": {
                "name": self.dataset.name,
                "digest": self.digest,
                "train": len(self.dataset.train.labels),
                "test": len(self.dataset.test.labels),
                "classes": self.dataset.num_classes,
                "class_names": list(self.dataset.class_names),
            },
            "split": {
                "forget": len(split.forget),
                "retain": len(split.retain),
                "val": len(split.val),
                "test": len(split.test),
                "digest": self.split_digest,
                "notes": list(split.notes),
            },
        }


def load_data(
    recipe: Recipe,
    store: Store | None,
    on_progress: Progress | None = None,
    *,
    keep: bool = True,
    allow_factory: bool = False,
    stand_in: bool = False,
    decoded: ImageDataset | None = None,
    trains: bool = True,
) -> ExperimentData:
    """Returns the recipe's data, decoded, or read back from the store where it was decoded before.

    **Arguments:**

    - `decoded`: what another recipe with the same data gave.
    - `stand_in`: where the scores that choose the forget set are not stored yet, return a forget
      set of the same size in its place.
    - `trains`: whether models are going to be trained on it; notes then tell of small batches.

    **Raises:** `RecipeError` where a file, a column, an image or the split is not what the recipe
    says. Also where the forget set cannot be chosen yet.
    """
    dataset = decoded or _load_dataset(recipe, store, on_progress, keep)
    scores = stored_scores(units, store) if (units := selection_units(recipe, dataset)) else None
    unknown = bool(units) and scores is None
    if unknown and not stand_in:
        fault = Fault(
            "scenario.select",
            dict(recipe.scenario.scored or {}),
            "the models that choose the forget set are not trained yet",
            "`orchestrator run` first, or the ids of a file such as its outputs/forget.csv",
        )
        raise RecipeError([fault], recipe.name)
    scenario = replace(recipe.scenario, select="first") if unknown else recipe.scenario
    try:
        ids = _column(recipe, None)
        column = partial(_named, recipe)
        split = make_split(dataset, scenario, recipe.seed, ids=ids, column=column, scores=scores)
        if unknown:
            note = f"which samples are forgotten is known when {len(units) - 1} models are trained and have scored them"
            split = replace(split, notes=(*split.notes, note))
        if trains:
            split = replace(split, notes=(*split.notes, *last_batch_notes(recipe, split)))
    except (ValueError, OSError) as error:
        section = "dataset" if str(error).startswith("dataset.") else "scenario"
        raise RecipeError([fault_from(error, section, recipe.section(section))], recipe.name) from None
    faults = model_faults(recipe.model, dataset.num_classes, dataset.channels, dataset.image_size, allow_factory)
    if faults:
        raise RecipeError(faults, recipe.name)
    groups, names = _groups(recipe)
    return ExperimentData(dataset, split, ids, groups, names, scores, unknown)


def _groups(recipe: Recipe) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Returns the group of each training row by `outputs.group`, and the groups' names."""
    name = recipe.outputs.group
    if name is None:
        return None, ()
    try:
        values = [str(value) for value in _named(recipe, name).tolist()]
    except ValueError as error:
        raise RecipeError([Fault("outputs.group", name, first_line(error))], recipe.name) from None
    names, codes = np.unique(values, return_inverse=True)
    return codes.astype(np.int64), tuple(names.tolist())


def _options(recipe: Recipe) -> dict[str, Any]:
    """Returns the options that images depend on; the limit is kept apart."""
    return {name: value for name, value in recipe.dataset.options.items() if name not in ("limit", "mean", "std")}


def _column(recipe: Recipe, name: str | None) -> np.ndarray | None:
    limit: Any = recipe.dataset.options.get("limit")  # checked with the recipe
    return read_column(recipe.dataset.name, name, limit=limit, **_options(recipe))


def _named(recipe: Recipe, name: str) -> np.ndarray:
    found = _column(recipe, name)
    assert found is not None, "a named column is there or refused"
    return found


def _load_dataset(recipe: Recipe, store: Store | None, on_progress: Progress | None, keep: bool) -> ImageDataset:
    decoded = _decoded(recipe, store, on_progress, keep)
    given = recipe.dataset.options
    try:
        return decoded.normalised(given.get("mean"), given.get("std"))
    except ValueError as error:
        raise RecipeError([fault_from(error, "dataset", recipe.section("dataset"))], recipe.name) from None


def _decoded(recipe: Recipe, store: Store | None, on_progress: Progress | None, keep: bool) -> ImageDataset:
    source, limit = recipe.dataset.name, recipe.dataset.options.get("limit")
    options = _options(recipe)
    try:
        identity = fingerprint(source, **options)
        asked = {"source": source, "options": options, "limit": limit, "fingerprint": identity}
        if code := code_of(SOURCES[source]):
            asked["code"] = code
        unit = Unit(PlainSpec("dataset", asked), f"dataset {source}")
        if store is not None and store.has(unit.key):
            try:
                with np.load(store.fetch(unit.key, "dataset.npz"), allow_pickle=False) as arrays:
                    return ImageDataset.from_arrays(dict(arrays))
            except CorruptObject:
                pass  # set aside; decoded again below
        dataset: ImageDataset = load_dataset(source, limit=limit, on_progress=on_progress, **options)
    except (ValueError, OSError) as error:
        raise RecipeError([fault_from(error, "dataset", recipe.section("dataset"))], recipe.name) from None
    if store is not None and keep:
        with store.attempt(unit.key) as attempt:
            with attempt.path("dataset.npz").open("wb") as file:
                np.savez(file, **dataset.to_arrays())
            attempt.commit({"kind": "dataset", "name": unit.name, "digest": dataset.digest})
    return dataset
