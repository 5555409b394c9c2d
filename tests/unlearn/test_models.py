"""Models: published sizes, small inputs, torchvision's equal, seeds."""

import sys
import types

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from unlearn import MODELS, build_model
from unlearn.core.seeds import seeded
from unlearn.models import torchvision_names
from unlearn.models.classes import drop_classes, kept_classes
from unlearn.models.reset import reset
from unlearn.models.resnet18 import BasicBlock


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def equal(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


def test_published_sizes():
    assert parameters(build_model("small_vgg", num_classes=10)) == 5_678_858
    assert round(parameters(build_model("all_cnn", num_classes=10)) / 1e6, 1) == 1.6
    assert round(parameters(build_model("resnet18", num_classes=200, image_size=64)) / 1e6, 1) == 11.3


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3), (40, 3)])
def test_shapes_and_widths(name, size, channels):
    narrow, wide = (
        build_model(name, num_classes=7, in_channels=channels, image_size=size, width=width) for width in (0.125, 0.25)
    )
    images = torch.randn(3, channels, size, size)
    assert narrow(images).shape == (3, 7)
    assert 2.5 < parameters(wide) / parameters(narrow) < 4.5


def test_resnet18_is_torchvisions():
    """Same names, same numbers, in both modes, and initialised with the same spread."""
    ours = build_model("resnet18", num_classes=5, seed=3)
    theirs = torchvision_models.resnet18(num_classes=5)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(ours(images), theirs(images))
    assert equal(ours, theirs)  # running statistics after that pass
    assert torch.equal(ours.eval()(images), theirs.eval()(images))
    for name, weights in torchvision_models.resnet18(num_classes=5).state_dict().items():
        if name.endswith("conv2.weight"):
            assert ours.state_dict()[name].std() == pytest.approx(weights.std().item(), rel=0.02)


def test_pooling_before_the_relu_changes_no_bit():
    """The published order is ReLU then pool: values and gradients are the same, ties at zero included."""
    x = torch.randn(5, 4, 8, 8).round(decimals=1)
    x[0] = -x[0].abs()
    results = []
    for order in ((nn.ReLU(), nn.MaxPool2d(2)), (nn.MaxPool2d(2), nn.ReLU())):
        leaf = x.clone().requires_grad_()
        y = nn.Sequential(*order)(leaf)
        (y * torch.arange(y.numel()).view_as(y)).sum().backward()
        results.append((y.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("name", MODELS)
def test_seeds_decide_the_weights_and_nothing_else_does(name):
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = build_model(name, num_classes=3, width=0.125, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)
    assert equal(first, build_model(name, num_classes=3, width=0.125, seed=5))
    assert not equal(first, build_model(name, num_classes=3, width=0.125, seed=6))


@pytest.mark.parametrize("name", MODELS)
def test_resetting_a_model_under_a_seed_is_building_it(name):
    model = build_model(name, num_classes=3, width=0.125, seed=1)
    model(torch.randn(4, 3, 32, 32))  # moves running statistics
    with seeded(5):
        reset(model.modules())
    assert equal(model, build_model(name, num_classes=3, width=0.125, seed=5))


def test_a_module_that_cannot_be_reset_is_named():
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(2))

    with pytest.raises(ValueError, match="Scale holds the parameter 'gain' and has no reset_parameters"):
        reset([nn.ReLU(), Scale()])


def test_torchvision_models_by_name():
    model = build_model("mobilenet_v3_small", num_classes=6, seed=1)
    assert model.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 6)
    grey = build_model("squeezenet1_1", num_classes=6, in_channels=1)
    assert grey.eval()(torch.randn(2, 1, 40, 40)).shape == (2, 6)
    assert "resnet50" in torchvision_names()


def test_factories_need_permission(monkeypatch):
    module = types.ModuleType("own_models")
    module.linear = lambda num_classes, in_channels, image_size, **kwargs: nn.Sequential(
        nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes, **kwargs)
    )
    module.wrong = lambda **kwargs: 3
    monkeypatch.setitem(sys.modules, "own_models", module)
    with pytest.raises(ValueError, match="--allow-code"):
        build_model("own_models:linear", num_classes=2)
    model = build_model("own_models:linear", num_classes=2, image_size=4, allow_factory=True, bias=False)
    assert model(torch.zeros(1, 3, 4, 4)).shape == (1, 2)
    with pytest.raises(ValueError, match=r"must return a torch.nn.Module"):
        build_model("own_models:wrong", num_classes=2, allow_factory=True)
    with pytest.raises(ValueError, match="cannot be imported"):
        build_model("own_models:missing", num_classes=2, allow_factory=True)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("smal_vgg", {}, "model.name: 'smal_vgg' .* did you mean 'small_vgg'"),
        ("resnet81", {}, "did you mean 'resnet18'"),
        ("small_vgg", {"width": 0}, "model.width: 0"),
        ("small_vgg", {"image_size": 4}, "needs images of 8 pixels or more, these have 4"),
        ("small_vgg", {"depth": 3}, "model: small_vgg cannot be built with depth"),
        ("resnet50", {"width": 0.5}, "model.width: 0.5 is not allowed for resnet50"),
        ("small_vgg", {"seed": -3}, "model.seed: -3"),
    ],
)
def test_model_mistakes_are_one_clear_line(name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        build_model(name, num_classes=10, **options)
    assert "\n" not in str(error.value)


def test_the_operators_are_declared_only_where_the_extension_fails():
    import unlearn.core._torchvision as shim

    declared = shim.declare_operators()
    loaded = hasattr(torch.ops.torchvision, "roi_align")  # only the compiled extension brings it
    assert declared != loaded


# --- class removal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_dropped_classes_leave_the_other_outputs_as_they_were(name):
    model = build_model(name, num_classes=6, width=0.125).eval()
    images = torch.randn(3, 3, 32, 32)
    before = model(images)
    smaller = drop_classes(model, (4, 1))
    assert smaller is model
    torch.testing.assert_close(smaller(images), before[:, [0, 2, 3, 5]])
    assert kept_classes(6, (4, 1)).tolist() == [0, 2, 3, 5]
    assert all(parameter.requires_grad for parameter in smaller.parameters())


def test_classes_that_cannot_be_dropped_are_refused():
    with pytest.raises(ValueError, match="forget_classes: 6 is no class; allowed are 0 to 5"):
        drop_classes(nn.Linear(2, 6), (6,))
    with pytest.raises(ValueError, match="keep one at least"):
        drop_classes(nn.Linear(2, 2), (0, 1))
    with pytest.raises(ValueError, match="no linear layer"):
        drop_classes(nn.Conv2d(3, 3, 1), (0,))
    linear = nn.Linear(2, 3)
    assert drop_classes(linear, ()) is linear
    assert drop_classes(linear, (1,)).weight.shape == (2, 2)


@pytest.mark.parametrize("inputs", [3, 4, 8])
def test_strided_shortcuts_are_convolutions_whatever_the_layout(inputs):
    """With fewer than 8 channels oneDNN's own backward pass corrupts memory on some CPUs."""
    ours = BasicBlock(inputs, 8, stride=2).downsample[0]
    plain = nn.Conv2d(inputs, 8, 1, 2, bias=False).double()
    plain.load_state_dict(ours.state_dict())
    given = torch.randn(64, inputs, 9, 9)
    for layout in (torch.contiguous_format, torch.channels_last):
        images = given.to(memory_format=layout).requires_grad_()
        expected = given.double().requires_grad_()
        out, right = ours(images), plain(expected)
        assert torch.allclose(out, right.float(), atol=1e-5)
        upstream = torch.randn_like(right)
        found = torch.autograd.grad(out, (images, ours.weight), upstream.float())
        wanted = torch.autograd.grad(right, (expected, plain.weight), upstream)
        for one, other in zip(found, wanted, strict=True):
            assert torch.allclose(one, other.float(), atol=1e-3)
