"""A last batch of a few images spoils batch normalisation: users are told before anything runs."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from orchestrator.plan.data import load_data
from orchestrator.plan.last_batch import FEWEST, _better, last_batch_notes
from orchestrator.recipe.files import read_document
from orchestrator.recipe.recipe import check_recipe, shipped_recipes
from unlearn import ImageDataset, make_split
from unlearn.data.images import ImageSet


def notes_of(document: dict[str, Any], **changes: Any) -> list[str]:
    """Returns the remarks on a tiny recipe: 200 training images, 50 of them forgotten."""
    recipe = check_recipe(copy.deepcopy({**document, **changes}))
    return list(load_data(recipe, None).split.notes)


def training(tiny: dict[str, Any], batch_size: int) -> dict[str, Any]:
    return {**tiny["training"], "batch_size": batch_size}


@pytest.mark.parametrize(
    ("size", "holds"), [(148, 2), (149, 1), (72, 6), (71, None), (150, None), (75, None), (7, None)]
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


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ({"name": "finetune", "batch_size": 148}, "methods: finetune: batch_size 148: the last batch of 150 retained"),
        ({"name": "finetune", "batch_size": 148, "batch_norm": "frozen"}, None),
        ({"name": "random_label", "batch_size": 48, "batch_norm": "frozen"}, None),
        (
            {"name": "grad_ascent", "batch_size": 48, "batch_norm": "train"},
            "methods: grad_ascent: batch_size 48: the last batch of 50 forgotten",
        ),
        ({"name": "pgu", "gamma": 0.9, "batch_size": 48}, None),  # PGU leaves normalisation as it is
        ({"name": "eu_k", "k": 1, "batch_size": 148}, "methods: eu_k: batch_size 148: the last batch of 150 retained"),
    ],
)
def test_methods_that_learn_from_their_batches_are_told(
    tiny: dict[str, Any], method: dict[str, Any], told: str | None
) -> None:
    found = notes_of(tiny, methods=[method], training=training(tiny, 100))
    assert len(found) == (told is not None)
    assert told is None or found[0].startswith(f"{told} images holds 2.")


@pytest.mark.parametrize("size", [8, 9, 32, 128, 256])
def test_the_size_that_is_proposed_leaves_enough(size: int) -> None:
    for count in range(size + 1, 3000, 7):
        better = _better(count, size)
        assert better >= FEWEST
        assert not 0 < count % better < FEWEST


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
