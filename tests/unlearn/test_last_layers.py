"""EU-k and CF-k: which layers move, what the frozen part keeps, and that computing it once changes nothing."""

import copy
import inspect
from collections import OrderedDict

import pytest
import torch
from torch import nn

from unlearn import ArrayLoader, CFk, EUk, Scenario, Training, accuracy, build_model, load_dataset, make_split, train
from unlearn.methods import METHODS, Method, MethodDidNothing, UnlearnError
from unlearn.methods import last_layers as module
from unlearn.methods.base import Inputs
from unlearn.methods.cut import chain_of, cut
from unlearn.methods.last_layers import trainable_modules
from unlearn.methods.retrain import Retrain


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", limit={"train": 400, "test": 100})


@pytest.fixture(scope="module")
def split(digits):
    return make_split(digits, Scenario(per_class=5), 0)


def loader_of(digits, rows, **options):
    settings = {"mean": digits.mean, "std": digits.std, "batch_size": 64, **options}
    return ArrayLoader(digits.train.images, digits.train.labels, rows, **settings)


def model_of(name="small_vgg", seed=0):
    return build_model(name, num_classes=10, in_channels=1, image_size=8, width=0.125, seed=seed)


@pytest.fixture(scope="module")
def trained(digits):
    model = model_of()
    train(model, loader_of(digits, None, shuffle=True), Training(epochs=6, augment=None, batch_size=64), seed=0)
    return model.eval()


def states(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(before, after):
    return {name.rpartition(".")[0] for name in before if not torch.equal(before[name], after[name])}


SETTINGS = {"epochs": 2, "augment": None, "batch_size": 64}


@pytest.mark.parametrize("cls", [EUk, CFk])
@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, {"linear2"}),
        (2, {"linear2", "norm4", "linear1"}),
        (3, {"linear2", "norm4", "linear1", "norm3", "conv3"}),
        (5, {"linear2", "norm4", "linear1", "norm3", "conv3", "norm2", "conv2", "norm1", "conv1"}),
    ],
)
def test_exactly_the_last_k_layers_move(cls, k, expected, trained, digits, split):
    """Normalisation ahead of them keeps its statistics; the model that was given stays as it was."""
    given = states(trained)
    result = cls(k=k, **SETTINGS).unlearn(
        trained, forget=loader_of(digits, split.forget), retain=loader_of(digits, split.retain)
    )
    assert moved(given, states(result.model)) == expected
    assert moved(given, states(trained)) == set()
    assert not any(layer.training for layer in result.model.modules())
    assert all(parameter.requires_grad for parameter in result.model.parameters())
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert all(0 <= row["forget_accuracy"] <= 1 for row in result.history)


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, {"fc"}),
        (2, {"fc", "layer4.1.conv2", "layer4.1.bn2"}),
        (3, {"fc", "layer4.1.conv2", "layer4.1.bn2", "layer4.1.conv1", "layer4.1.bn1"}),
        (
            4,
            {"fc", "layer4.1.conv2", "layer4.1.bn2", "layer4.1.conv1", "layer4.1.bn1"}
            | {"layer4.0.downsample.0", "layer4.0.downsample.1"},
        ),
    ],
)
def test_nested_layers_are_found(k, expected, digits, split):
    model = model_of("resnet18").eval()
    result = EUk(k=k, **SETTINGS).unlearn(
        model, forget=loader_of(digits, split.forget), retain=loader_of(digits, split.retain)
    )
    assert moved(states(model), states(result.model)) == expected


def test_blocks_of_resnet18_are_six():
    model = model_of("resnet18")
    assert trainable_modules(model, 1, "blocks") == [model.fc]
    two = trainable_modules(model, 2, "blocks")
    assert two[0] is model.layer4
    assert model.layer4[0].conv1 in two
    assert trainable_modules(model, 6, "blocks")[0] is model.conv1
    with pytest.raises(UnlearnError, match="k: 7 is not allowed; the model has 6 blocks, so give 1 to 6"):
        trainable_modules(model, 7, "blocks")
    with pytest.raises(UnlearnError, match="the model has 21 layers"):
        trainable_modules(model, 22, "layers")


def test_a_reset_layer_forgets_and_a_kept_one_goes_on(trained, digits, split):
    """Without training to speak of, CF-k is the model it was given, EU-k a fresh last layer."""
    options = {**SETTINGS, "epochs": 1, "lr": 1e-9, "final_lr": None}
    loaders = {"forget": loader_of(digits, split.forget), "retain": loader_of(digits, split.retain)}
    kept = CFk(k=1, **options).unlearn(trained, **loaders).model
    fresh = EUk(k=1, seed=3, **options).unlearn(trained, **loaders).model
    torch.testing.assert_close(kept.linear2.weight, trained.linear2.weight, rtol=0, atol=1e-6)
    assert (fresh.linear2.weight - trained.linear2.weight).abs().mean() > 0.01
    everything = loader_of(digits, None)
    assert accuracy(kept, everything) == accuracy(trained, everything)
    assert accuracy(fresh, everything) < 0.5


@pytest.mark.medium
@pytest.mark.parametrize("cls", [EUk, CFk])
@pytest.mark.parametrize(("name", "k"), [("small_vgg", 2), ("small_vgg", 4), ("all_cnn", 3), ("resnet18", 3)])
def test_computing_the_frozen_part_once_changes_nothing(cls, name, k, digits, split, monkeypatch):
    """The same updates in the same order, dropout included, as computing it in every step."""
    model = model_of(name)
    loaders = {"forget": loader_of(digits, split.forget), "retain": loader_of(digits, split.retain)}
    once = cls(k=k, **SETTINGS).unlearn(model, **loaders)
    monkeypatch.setattr(module, "room_for_features", lambda device: 0)
    always = cls(k=k, **SETTINGS).unlearn(model, **loaders)
    assert once.notes == []
    assert "computed in every epoch" in always.notes[0]
    for name_, tensor in always.model.state_dict().items():
        torch.testing.assert_close(once.model.state_dict()[name_], tensor, rtol=1e-4, atol=1e-5)
    for first, second in zip(once.history, always.history, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
        assert first["forget_accuracy"] == second["forget_accuracy"]


def test_the_frozen_part_is_computed_once_however_many_epochs(digits, split, monkeypatch):
    loaders = {"forget": loader_of(digits, split.forget), "retain": loader_of(digits, split.retain)}

    def forwards(epochs):
        model, seen = model_of(), []
        model.conv1.register_forward_hook(lambda *args: seen.append(1))  # the copy that is trained carries it too
        CFk(k=2, **{**SETTINGS, "epochs": epochs}).unlearn(model, **loaders)
        return len(seen)

    once = forwards(1)
    assert once > 0
    assert forwards(4) == once
    monkeypatch.setattr(module, "room_for_features", lambda device: 0)
    assert forwards(4) > 2 * once


def test_augmentation_reaches_the_frozen_part(trained, digits, split):
    loaders = {"forget": loader_of(digits, split.forget), "retain": loader_of(digits, split.retain)}
    plain, augmented = (
        CFk(k=1, **{**SETTINGS, "augment": augment}).unlearn(trained, **loaders).history[0]["loss"]
        for augment in (None, "crop_flip")
    )
    assert augmented > 1.5 * plain  # shifted digits are new to it


def test_any_loader_will_do(trained, digits, split):
    batches = list(loader_of(digits, split.retain))
    result = EUk(k=1, **SETTINGS).unlearn(trained, forget=batches[:1], retain=batches, validation=batches[:2])
    assert set(result.history[0]) >= {"forget_accuracy", "validation_accuracy"}


def test_a_module_without_a_known_chain_is_trained_the_same(digits, split):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model_of()

        def forward(self, x):
            return self.inner(x)

    assert chain_of(Wrapped()) is None
    model = Wrapped().eval()
    result = EUk(k=1, **SETTINGS).unlearn(
        model, forget=loader_of(digits, split.forget), retain=loader_of(digits, split.retain)
    )
    assert moved(states(model), states(result.model)) == {"inner.linear2"}


def test_the_frozen_part_ends_before_the_first_dropout():
    model = model_of().train()
    for norm in (model.norm1, model.norm2, model.norm3, model.norm4):
        norm.eval()
    parts = cut(model, list(model.linear2.parameters()), torch.randn(3, 1, 8, 8))
    assert parts.suffix[0] is model.dropout
    nested = nn.Sequential(OrderedDict(a=nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU()), b=nn.Conv2d(2, 2, 1)))
    assert [type(part).__name__ for part in chain_of(nested)] == ["Conv2d", "ReLU", "Conv2d"]
    assert len(cut(nested, [nested.b.weight], torch.randn(3, 1, 8, 8)).prefix) == 2


def test_the_frozen_part_ends_before_normalisation_that_learns():
    model = model_of().train()
    model.dropout.p = 0.0
    for norm in (model.norm1, model.norm2, model.norm4):
        norm.eval()
    before = model.norm3.running_mean.clone()
    parts = cut(model, list(model.linear2.parameters()), torch.randn(3, 1, 8, 8))
    assert parts.suffix[0] is model.norm3
    assert torch.equal(model.norm3.running_mean, before), "trying the halves leaves statistics as they were"


def test_the_chain_of_resnet18_is_its_forward_pass():
    model = model_of("resnet18").eval()
    images = torch.randn(3, 1, 8, 8)
    out = images
    for part in chain_of(model):
        out = part(out)
    assert torch.equal(out, model(images))


def test_seeds(trained, digits, split):
    loaders = {"forget": loader_of(digits, split.forget), "retain": loader_of(digits, split.retain)}

    def run(seed):
        return states(EUk(k=2, seed=seed, **SETTINGS).unlearn(trained, **loaders).model)

    first = run(0)
    torch.rand(3)
    assert moved(first, run(0)) == set()
    assert moved(first, run(1)) == {"linear2", "norm4", "linear1"}


def test_forgotten_classes_are_dropped(trained, digits):
    split = make_split(digits, Scenario(kind="classes", classes=(1, 7)), 0)
    loaders = {"forget": loader_of(digits, split.forget), "retain": loader_of(digits, split.retain)}
    result = EUk(k=1, **SETTINGS).unlearn(
        trained, **loaders, num_classes=10, forget_classes=split.forget_classes, monitor={"retain": loaders["retain"]}
    )
    whole = EUk(k=1, **SETTINGS).unlearn(trained, **loaders)
    images = torch.randn(4, 1, 8, 8)
    kept = [label for label in range(10) if label not in (1, 7)]
    torch.testing.assert_close(result.model(images), whole.model(images)[:, kept])
    assert "retain_accuracy" in result.history[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k: 0 is not allowed"),
        ({"k": 1, "unit": "stage"}, "unit: 'stage'"),
        ({"k": 1, "lr": -1}, "^lr: -1"),
        ({"k": 1, "seed": -1}, "seed: -1"),
        ({"k": 1, "augment": "no"}, "^augment: 'no'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EUk(**settings)


def test_mistakes_are_told(trained, digits, split):
    loaders = {"forget": loader_of(digits, split.forget), "retain": loader_of(digits, split.retain)}
    with pytest.raises(UnlearnError, match="retain: eu_k trains on the retain set"):
        EUk(k=1).unlearn(trained, forget=loaders["forget"])
    with pytest.raises(UnlearnError, match="k: 6 is not allowed; the model has 5 layers"):
        EUk(k=6, **SETTINGS).unlearn(trained, **loaders)
    with pytest.raises(MethodDidNothing, match="epochs: cf_k left every weight as it was in 0 epochs"):
        CFk(k=1, epochs=0).unlearn(trained, **loaders)


def test_both_are_registered_as_retain_methods():
    for name in ("eu_k", "cf_k"):
        assert METHODS[name].access == "retain"
        assert METHODS[name](k=1).requires() == {"retain"}
        assert METHODS[name](k=1) == copy.deepcopy(METHODS[name](k=1))


@pytest.mark.medium
@pytest.mark.parametrize("augment", [None, "crop_flip"], ids=["frozen part once", "whole model"])
@pytest.mark.parametrize("cls", [EUk, CFk, Retrain])
def test_captured_steps_go_from_model_to_model(digits, split, trained, graphs, cls, augment):
    settings = {**SETTINGS, "augment": augment, **({} if cls is Retrain else {"k": 2})}
    forget, retain = loader_of(digits, split.forget), loader_of(digits, split.retain)
    for seed in (0, 1):
        method = cls(**settings, seed=seed)
        alone = method.unlearn(trained, forget=forget, retain=retain)
        found = method.unlearn(trained, forget=forget, retain=retain, graphs=graphs)
        assert all(
            torch.equal(*pair) for pair in zip(states(alone.model).values(), states(found.model).values(), strict=True)
        )
        assert [row["loss"] for row in alone.history] == [row["loss"] for row in found.history]
    assert graphs.captured == 1


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_takes_the_arguments_of_the_base_class(name):
    """So that a caller can hand over what a method declares without knowing the method."""
    wanted = set(inspect.signature(Method.unlearn).parameters)
    assert wanted == {"self", "model", *Inputs.__annotations__}
    taken = inspect.signature(METHODS[name].unlearn).parameters
    rest = Inputs.__annotations__ if "given" in taken else ()  # `**given: Unpack[Inputs]`
    assert {*taken, *rest} - {"given"} == wanted
    assert issubclass(METHODS[name], Method)
