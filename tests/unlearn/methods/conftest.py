"""A small model that remembers its digits, without dropout, so that runs can be compared bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unlearn import ArrayLoader, ImageDataset, Scenario, Split, Training, build_model, load_dataset, make_split, train
from unlearn.moments.fisher import Fisher, fisher_diagonal

Loader = Callable[..., ArrayLoader]


@pytest.fixture(scope="package")
def digits() -> ImageDataset:
    return load_dataset("digits", limit={"train": 300, "test": 100})


@pytest.fixture(scope="package")
def split(digits: ImageDataset) -> Split:
    return make_split(digits, Scenario(per_class=4), 0)


@pytest.fixture(scope="package")
def loader_of(digits: ImageDataset) -> Loader:
    """A loader over some rows of the training set."""

    def make(rows: Any = None, **options: Any) -> ArrayLoader:
        settings = {"mean": digits.mean, "std": digits.std, "batch_size": 32, **options}
        return ArrayLoader(digits.train.images, digits.train.labels, rows, **settings)

    return make


@pytest.fixture(scope="package")
def held_out(digits: ImageDataset, split: Split) -> ArrayLoader:
    """The validation half of the test set."""
    options: dict[str, Any] = {"mean": digits.mean, "std": digits.std, "batch_size": 64}
    return ArrayLoader(digits.test.images, digits.test.labels, split.val, **options)


@pytest.fixture(scope="package")
def trained(loader_of: Loader) -> nn.Module:
    model = build_model("small_vgg", num_classes=10, in_channels=1, image_size=8, width=0.125, seed=0)
    model.dropout.p = 0.0
    train(model, loader_of(shuffle=True), Training(epochs=12, augment=None, batch_size=32), seed=0)
    return model.eval()


@pytest.fixture(scope="package")
def fisher(trained: nn.Module, loader_of: Loader) -> Fisher:
    return fisher_diagonal(trained, loader_of())


@pytest.fixture
def given(split: Split, loader_of: Loader, held_out: ArrayLoader) -> dict[str, ArrayLoader]:
    """The loaders that a method may be handed."""
    return {"forget": loader_of(split.forget), "retain": loader_of(split.retain), "validation": held_out}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two models have the same bits, buffers included."""
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())
