"""Sources read from the real data sets, where they are at hand."""

import os
from pathlib import Path

import numpy as np
import pytest

from unlearn import load_dataset


@pytest.fixture
def real(request):
    if "UNLEARN_DATA" not in os.environ:
        pytest.skip("UNLEARN_DATA does not name the folder of the real files")
    return Path(os.environ["UNLEARN_DATA"])


@pytest.mark.data
def test_real_cifar10_goes_round_the_classes(real):
    options = {part: str(real / f"cifar10-jpeg-{part}.parquet") for part in ("train", "test")}
    dataset = load_dataset("parquet", **options, image_column="img", limit={"train": 1000, "test": 500})
    assert np.bincount(dataset.train.labels).tolist() == [100] * 10
    assert dataset.class_names[0] == "airplane"
    assert dataset.train.images.shape == (1000, 32, 32, 3)


@pytest.mark.data
def test_real_tinyimagenet_has_colour_throughout(real):
    train = str(real / "tiny-imagenet-200-train-*.parquet")
    dataset = load_dataset(
        "parquet", train=train, test=str(real / "tiny-imagenet-200-val.parquet"), limit={"train": 2000, "test": 400}
    )
    assert dataset.train.images.shape == (2000, 64, 64, 3)
    assert dataset.num_classes == 200
    grey = (np.ptp(dataset.train.images.astype(np.int16), axis=-1) == 0).all(axis=(1, 2))
    assert 0 < grey.sum() < 200
