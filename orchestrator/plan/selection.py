"""Forget sets that trained models choose: what has to be trained and measured before the split is
known.

Nothing here depends on the forget set, and none of these models is ever under test.
"""

from __future__ import annotations

import numpy as np

from unlearn import ImageDataset

from ..base.errors import Fault, RecipeError
from ..recipe.sections import Recipe
from ..store import CorruptObject, Store
from .specs import RankSpec
from .trained import array_digest, drawn_part, train_unit
from .units import Label, Unit, seed_for

MODELS = 10  # that memorization is measured on, where the recipe does not say
SCORES = "scores.npz"


def selection_units(recipe: Recipe, dataset: ImageDataset) -> tuple[Unit, ...]:
    """Returns the models that give scores, and last the unit that measures them; none where the
    forget set needs no scores.

    `loss`, `confidence` and `margin` are measured on the originals of the attacker's training fold.
    Memorization needs models without each sample, so it has models of its own.

    **Raises:** `RecipeError` where the training fold is empty.
    """
    asked = recipe.scenario.scored
    if asked is None:
        return ()
    by, images, models = str(asked["by"]), len(dataset.train.labels), []
    part: tuple[int, ...] = ()
    if by == "memorization":
        count, seed = asked.get("models", MODELS), seed_for(recipe.seed, "selection")
        assert isinstance(count, int), "checked with the recipe"
        part = (seed, count)
        for number in range(count):
            rows = drawn_part(images, seed, count, number)
            name, drawn = f"selection-{number:03d}", (array_digest(rows), len(rows))
            models.append(train_unit(recipe, dataset.digest, *drawn, "selection", number, name, part=(*part, number)))
    else:
        for number in range(recipe.shadows.split[0]):
            name = f"original-{number:03d}"
            models.append(train_unit(recipe, dataset.digest, "all", images, "original", number, name))
        if not models:
            fault = Fault(
                "scenario.select",
                dict(asked),
                "measured on originals of the training fold, and shadows.split has none",
                "a first number of shadows.split of 1 or more, or by: memorization",
            )
            raise RecipeError([fault], recipe.name)
    spec = RankSpec(dataset.digest, by, tuple(unit.key for unit in models), part)
    rank = Unit(spec, f"scores by {by}", Label(), tuple(models), cost=images * len(models))
    return (*models, rank)


def stored_scores(units: tuple[Unit, ...], store: Store | None) -> np.ndarray | None:
    """Returns the scores, float64 `(n, 2)`, that the last of `units` measured; None where they are
    not stored, or damaged."""
    if store is None or not store.has(units[-1].key):
        return None
    try:
        with np.load(store.fetch(units[-1].key, SCORES), allow_pickle=False) as arrays:
            return np.asarray(arrays["scores"], dtype=np.float64)
    except CorruptObject:
        return None  # set aside; measured again
