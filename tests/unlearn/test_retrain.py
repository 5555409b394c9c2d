"""Retraining: a model from scratch that owes nothing to the one given."""

import pytest
import torch

from unlearn import ArrayLoader, Retrain, Scenario, Training, build_model, load_dataset, make_split, train
from unlearn.methods import METHODS, UnlearnError


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", limit={"train": 300, "test": 100})


def loader_of(digits, rows, **options):
    settings = {"mean": digits.mean, "std": digits.std, "batch_size": 64, **options}
    return ArrayLoader(digits.train.images, digits.train.labels, rows, **settings)


def equal(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", ["small_vgg", "all_cnn", "resnet18"])
def test_it_is_building_and_training_a_new_model(name, digits):
    split = make_split(digits, Scenario(per_class=5), 0)
    options = {"num_classes": 10, "in_channels": 1, "image_size": 8, "width": 0.125}
    given = build_model(name, seed=1, **options)
    train(given, loader_of(digits, None), Training(epochs=1), seed=0)
    retain = loader_of(digits, split.retain)
    method = Retrain(epochs=2, batch_size=64, seed=7)
    result = method.unlearn(given, forget=loader_of(digits, split.forget), retain=retain, monitor={"retain": retain})
    fresh = build_model(name, seed=7, **options)
    history = train(
        fresh, retain.replace(shuffle=True, augment="crop_flip", seed=7), Training(epochs=2, batch_size=64), seed=7
    )
    assert equal(result.model, fresh)
    assert not equal(result.model, given)
    assert [row["loss"] for row in result.history] == [row["loss"] for row in history]
    assert {"forget_accuracy", "retain_accuracy"} <= set(result.history[0])


def test_forgotten_classes_are_dropped(digits):
    split = make_split(digits, Scenario(kind="classes", classes=(3,)), 0)
    model = build_model("small_vgg", num_classes=10, in_channels=1, image_size=8, width=0.125)
    result = Retrain(epochs=1, batch_size=64).unlearn(
        model,
        forget=loader_of(digits, split.forget),
        retain=loader_of(digits, split.retain),
        num_classes=10,
        forget_classes=split.forget_classes,
    )
    assert result.model(torch.zeros(2, 1, 8, 8)).shape == (2, 9)


def test_it_needs_the_retain_set():
    model = build_model("small_vgg", num_classes=10, width=0.125)
    with pytest.raises(UnlearnError, match="retain: retrain trains on the retain set"):
        Retrain().unlearn(model, forget=[])
    assert METHODS["retrain"] is Retrain
    assert Retrain().requires() == {"retain"}


def test_frozen_weights_are_trained_too_and_named(digits):
    split = make_split(digits, Scenario(per_class=5), 0)
    given = build_model("small_vgg", num_classes=10, in_channels=1, image_size=8, width=0.125, seed=1)
    loaders = {"forget": loader_of(digits, split.forget), "retain": loader_of(digits, split.retain)}
    method = Retrain(epochs=2, batch_size=64, seed=7)
    free = method.unlearn(given, **loaders)
    first = next(given.parameters()).requires_grad_(False)
    result = method.unlearn(given, **loaders)
    assert equal(result.model, free.model), "a random layer that nothing trains is no standard"
    assert free.notes == []
    assert "frozen in the model that was given, and changed all the same" in result.notes[0]
    assert not first.requires_grad
    assert [p.requires_grad for p in result.model.parameters()] == [p.requires_grad for p in given.parameters()]
