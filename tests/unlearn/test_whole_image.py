"""Convolutions on very small images as matrix products: the same values and gradients, the same module afterwards."""

import copy

import pytest
import torch
from torch import nn

from unlearn import build_model
from unlearn.training.whole_image import whole_image_products

# (kernel, stride, padding, height, width), whether every output pixel sees the whole image
CASES = [
    ((3, 1, 1, 1, 1), True),
    ((3, 1, 1, 2, 2), True),
    ((3, 2, 1, 2, 2), True),
    ((3, 2, 1, 1, 2), True),
    ((7, 2, 3, 4, 4), True),
    ((5, 1, 2, 2, 3), True),
    ((3, 1, 1, 3, 3), False),
    ((3, 2, 1, 4, 4), False),
    ((3, 1, 1, 2, 3), False),
]


def products(monkeypatch):
    """Counts the matrix products that stand for convolutions."""
    calls = []
    linear = nn.functional.linear
    monkeypatch.setattr("unlearn.training.whole_image.F.linear", lambda *given: calls.append(1) or linear(*given))
    return calls


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("shape", "whole"), CASES)
def test_values_and_gradients_are_those_of_the_convolution(shape, whole, bias, monkeypatch):
    kernel, stride, padding, height, width = shape
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 7, kernel, stride, padding, bias=bias, dtype=torch.float64)
    images = torch.randn(300, 5, height, width, dtype=torch.float64, requires_grad=True)
    calls = products(monkeypatch)
    found = []
    for wanted in (False, True):
        layer.zero_grad()
        images.grad = None
        with whole_image_products(layer, wanted):
            out = layer(images)
            (out * torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view_as(out)).sum().backward()
        gradients = [parameter.grad.clone() for parameter in layer.parameters()]
        found.append([out.detach(), images.grad.clone(), *gradients])
    assert bool(calls) == whole
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    if (height, width) == (1, 1):
        unseen = found[1][2].clone()
        unseen[:, :, padding, padding] = 0
        assert not unseen.any()  # taps that meet padding only have no gradient at all


def test_small_batches_and_other_convolutions_are_left_alone(monkeypatch):
    calls = products(monkeypatch)
    plain = nn.Conv2d(4, 4, 3, padding=1)
    other = [
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 1),
    ]
    with whole_image_products(nn.ModuleList([plain, *other])):
        plain(torch.randn(31, 4, 1, 1))
        plain(torch.randn(127, 4, 2, 2))  # four windows
        plain(torch.randn(4, 1, 1))  # an image without a batch
        for layer in other:
            layer(torch.randn(300, 4, 1, 1))
    assert not calls


def test_the_module_is_as_before_and_copies_are_their_own():
    model = build_model("resnet18", num_classes=10, width=0.125)
    images = torch.randn(130, 3, 32, 32)
    with whole_image_products(model):
        with whole_image_products(model):
            pass
        model.eval()
        twin = copy.deepcopy(model)
        with torch.no_grad():
            before = model(images)
            twin.layer4[1].conv2.weight.zero_()
            assert torch.equal(model(images), before)
            assert not torch.equal(twin(images), before)
    assert not any("forward" in vars(module) for module in model.modules())
    with torch.no_grad():
        torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-5)
