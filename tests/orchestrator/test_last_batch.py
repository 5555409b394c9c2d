"""A last batch of a few images spoils batch normalisation: users are told before anything runs."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from orchestrator.plan.data import load_data
from orchestrator.plan.last_batch import _better, last_batch_notes
from orchestrator.recipe.files import read_document
from orchestrator.recipe.recipe import check_recipe, shipped_recipes
from orchestrator.work.context import Context
from orchestrator.work.inputs import method_inputs
from unlearn import ImageDataset, make_split
from unlearn.core.modes import FEW
from unlearn.data.images import ImageSet


def notes_of(document: dict[str, Any], **changes: Any) -> list[str]:
    """Returns the remarks on a tiny recipe: 200 training images, 50 of them forgotten."""
    recipe = check_recipe(copy.deepcopy({**document, **changes}))
    return list(load_data(recipe, None).split.notes)


def training(tiny: dict[str, Any], batch_size: int) -> dict[str, Any]:
    return {**tiny["training"], "batch_size": batch_size}


@pytest.mark.parametrize(
    ("size", "holds"), [(148, 2), (149, 1), (71, 8), (70, None), (150, None), (75, None), (7, None)]
)
def test_a_small_last_batch_of_retrain_is_told(tiny: dict[str, Any], size: int, holds: int | None) -> None:
    told = [note for note in notes_of(tiny, methods=[], training=training(tiny, size)) if "retained" in note]
    assert len(told) == (holds is not None)
    if told:
        assert told[0].startswith(
            f"training.batch_size {size}: the last batch of 150 retained images holds {holds}. So few spoil"
        )


def test_the_originals_are_told_apart(tiny: dict[str, Any]) -> None:
    told = notes_of(tiny, methods=[], training=training(tiny, 66))
    assert [note.split(". ")[0] for note in told] == [
        "training.batch_size 66: the last batch of 200 training images holds 2"
    ]


@pytest.mark.parametrize("size", [9, 32, 128, 256])
def test_the_size_that_is_proposed_leaves_enough_of_both(size: int) -> None:
    for count in range(size + 1, 3000, 7):
        better = _better((count, count - 30), size)
        assert better > FEW
        for each in (count, count - 30):
            assert each <= better or not 0 < each % better <= FEW


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ({"name": "finetune", "batch_size": 148, "epochs": 1}, True),
        ({"name": "finetune", "batch_size": 148, "epochs": 1, "batch_norm": "frozen"}, False),
        ({"name": "finetune", "batch_size": 140, "epochs": 1}, False),  # the last one has 10
        ({"name": "random_label", "batch_size": 48, "epochs": 1}, True),  # the forget set alone has 50
        ({"name": "cf_k", "k": 4, "batch_size": 148, "epochs": 1}, True),
        ({"name": "cf_k", "k": 1, "batch_size": 148, "epochs": 1}, False),  # no normalisation is trained
    ],
)
def test_methods_tell_of_their_own_batches(tiny: dict[str, Any], method: dict[str, Any], told: bool) -> None:
    recipe = check_recipe(copy.deepcopy({**tiny, "methods": [method]}))
    context = Context(None, load_data(recipe, None))
    [point] = recipe.methods
    result = point.method.unlearn(context.new_model(recipe.model, 0), **method_inputs(point.method, context, 0))
    found = [note for note in result.notes if note.startswith("the smallest batch held 2 images; so few spoil")]
    assert len(found) == told


def images(count: int, classes: int) -> ImageSet:
    return ImageSet(np.zeros((count, 1, 1, 3), dtype=np.uint8), np.arange(count, dtype=np.int64) % classes)


@pytest.mark.parametrize("name", sorted(name for name in shipped_recipes() if name.endswith(("-mini", "-small"))))
def test_no_reproduction_trains_on_a_small_last_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Table 4 at mini had 4 images in one of Retrain's: it missed 8 % of its own data in one model."""
    monkeypatch.setenv("UNLEARN_DATA", ".")
    recipe = check_recipe(read_document(name))
    options: dict[str, Any] = dict(recipe.dataset.options)
    classes = options.get("classes") or 10
    sets = (
        images(options["limit"][part], classes) if part in options["limit"] else images(1000, classes)
        for part in ("train", "test")
    )
    dataset = ImageDataset(name, *sets, classes, tuple(map(str, range(classes))), (0.5,) * 3, (0.5,) * 3)
    assert last_batch_notes(recipe, make_split(dataset, recipe.scenario, recipe.seed)) == ()
