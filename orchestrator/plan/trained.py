"""Models that are trained from scratch, as units."""

from __future__ import annotations

import hashlib

import numpy as np

from ..recipe.sections import Recipe
from .code import code_of_model
from .specs import TrainSpec
from .units import Label, Unit, default_threads, seed_for


def array_digest(array: np.ndarray) -> str:
    """Returns the SHA-256 of an array's type, shape and bytes."""
    hasher = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    hasher.update(np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()


def train_unit(
    recipe: Recipe,
    dataset: str,
    indices: str,
    images: int,
    role: str,
    index: int,
    name: str,
    *,
    labels: str = "",
    part: tuple[int, ...] = (),
) -> Unit[TrainSpec]:
    """Returns a model trained from scratch. Its seed depends on the recipe's, its role and its
    number only.

    **Arguments:**

    - `dataset`: its digest. `indices`: `all`, or the digest of the training rows; `images`: their
      number.
    - `labels`: digest of the labels where they are not the data's own.
    - `part`: how a worker draws the rows, where they are no part of the split: see `drawn_part`.
    """
    spec = TrainSpec(
        dataset=dataset,
        labels=labels,
        indices=indices,
        model=recipe.model,
        training=recipe.training,
        seed=seed_for(recipe.seed, role, index),
        # Sums in another order differ in the last bits.
        threads=default_threads(recipe.resources.cpus_per_unit),
        code=code_of_model(recipe.model.name),
        part=part,
    )
    return Unit(spec, name, Label(role=role, source=index), cost=images * max(1, recipe.training.epochs))


def drawn_part(images: int, seed: int, models: int, number: int) -> np.ndarray:
    """Returns the training rows, int64 and sorted, of model `number` of those that memorization is
    measured on.

    Every sample is left out of the same number of models, three tenths of them rounded, drawn
    anew for each sample.
    """
    out = left_out(models)
    places = np.argsort(np.random.default_rng(seed).random((images, models)), axis=1)[:, :out]
    return np.flatnonzero((places != number).all(axis=1)).astype(np.int64)


def left_out(models: int) -> int:
    """Returns from how many of the models each sample is left out."""
    return max(1, round(0.3 * models))
