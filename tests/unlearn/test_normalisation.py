"""A model of the user's own is given images as it was trained on them: mean and std can be said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unlearn import ArrayLoader
from unlearn.data import ImageDataset, load_dataset

LIMIT = {"train": 40, "test": 20}


def test_images_reach_the_model_as_it_was_trained() -> None:
    computed = load_dataset("digits", limit=LIMIT)
    given = load_dataset("digits", limit=LIMIT, mean=[0.0], std=[1.0])
    loader = ArrayLoader(given.train.images, given.train.labels, mean=given.mean, std=given.std, batch_size=40)
    images, _ = next(iter(loader))
    assert np.allclose(images[:, 0].numpy(), given.train.images[..., 0] / 255)
    assert (given.mean, given.std, given.given_statistics) == ((0.0,), (1.0,), True)
    assert not computed.given_statistics


def test_other_statistics_are_other_data_and_the_same_are_the_same() -> None:
    computed = load_dataset("digits", limit=LIMIT)
    other = computed.normalised([0.0], None)
    assert other.digest != computed.digest
    assert computed.normalised(list(computed.mean), list(computed.std)).digest == computed.digest
    assert computed.normalised(None, None) is computed
    back = ImageDataset.from_arrays(other.to_arrays())
    assert (back.digest, back.mean, back.given_statistics) == (other.digest, other.mean, True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mean": [0.5, 0.5, 0.5]}, "dataset.mean: .* give 1 numbers"),
        ({"std": [0.0]}, "dataset.std: .* above 0"),
        ({"mean": [float("nan")]}, "dataset.mean"),
        ({"mean": "0"}, "dataset.mean"),
        ({"std": [True]}, "dataset.std"),
    ],
)
def test_mistakes_name_the_field(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_dataset("digits", limit=LIMIT, **given)
