"""Losses and directions of a model that is very sure of its labels."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from tests.unlearn.methods.nets import FORGET, array, data, trained
from unlearn.core.margins import cross_entropies, odds_against
from unlearn.methods.kit import Samples, per_sample_cross_entropy
from unlearn.methods.kit.adversary import Pixels, uphill
from unlearn.methods.kit.mask import summed_gradient
from unlearn.methods.kit.work import Network
from unlearn.moments.fisher import fisher_diagonal


def sure(strength: float) -> torch.nn.Module:
    """The trained net with its logits multiplied."""
    model = copy.deepcopy(trained())
    *_, last = (module for module in model.modules() if isinstance(module, torch.nn.Linear))
    with torch.no_grad():
        last.weight.mul_(strength)
        last.bias.mul_(strength)
    return model.eval()


def cosine(one: Tensor, other: Tensor) -> float:
    one, other = one.double().flatten(), other.double().flatten()
    return float((one / one.norm()) @ (other / other.norm()))


@pytest.mark.parametrize("margin", [0.0, 5.0, 16.0, 30.0, 80.0])
def test_values_and_gradients_are_those_of_float64(margin: float) -> None:
    logits = torch.randn(40, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 7
    logits[torch.arange(40), labels] += margin
    # In float64, from the odds of all other classes together: −log p_y = log(1 + odds).
    odds = (logits.double() - logits.double().gather(1, labels[:, None])).exp()
    odds[torch.arange(40), labels] = 0.0
    wanted = torch.log1p(odds.sum(dim=1))
    torch.testing.assert_close(cross_entropies(logits, labels).double(), wanted, rtol=2e-5, atol=1e-38)
    single = logits.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(cross_entropies(single, labels).sum(), single)
    exact = odds / (1.0 + odds.sum(dim=1, keepdim=True))
    exact[torch.arange(40), labels] = -exact.sum(dim=1)
    torch.testing.assert_close(found.double(), exact, rtol=2e-5, atol=1e-38)


def test_a_single_class_has_no_loss_and_no_gradient() -> None:
    logits = torch.randn(3, 1, requires_grad=True)
    loss = cross_entropies(logits, torch.zeros(3, dtype=torch.int64))
    (found,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.tolist() == found.flatten().tolist() == [0.0] * 3


@pytest.mark.parametrize("strength", [1.0, 12.0])
def test_adversarial_steps_point_uphill_however_sure_the_model_is(strength: float) -> None:
    images, labels = data()
    images, labels = images[:FORGET], labels[:FORGET]
    scale = Pixels.of(
        Samples(array(0, FORGET), "forget", device=torch.device("cpu"), batch_size=8, augment=None, seed=0)
    )
    model = sure(strength)
    found = uphill(Network(model, "float32"), scale.pixels(images), labels, scale)
    exact = scale.pixels(images).double().requires_grad_(True)
    inputs = (exact - scale.mean.double()) / scale.std.double()
    odds_against(copy.deepcopy(model).double()(inputs), labels).sum().backward()
    assert exact.grad is not None
    worst = min(cosine(a, b) for a, b in zip(found, exact.grad, strict=True))
    assert worst > 0.999, "with the usual cross-entropy it is below nought for some"


def test_masks_and_fisher_sums_hold_where_the_model_is_sure() -> None:
    model, loader = sure(12.0), array(0, FORGET)
    exact = summed_gradient(copy.deepcopy(model).double(), _double(loader), per_sample_cross_entropy)
    found = summed_gradient(model, loader, per_sample_cross_entropy)
    together = [torch.cat([part[name].flatten() for name in exact]) for part in (found, exact)]
    assert cosine(*together) > 0.9999
    wanted = fisher_diagonal(copy.deepcopy(model).double(), _double(loader)).sums
    sums = fisher_diagonal(model, loader).sums
    for name, value in wanted.items():
        torch.testing.assert_close(sums[name], value, rtol=1e-2, atol=float(value.max()) * 1e-4)


def _double(loader: object) -> list[tuple[Tensor, Tensor]]:
    return [(images.double(), labels) for images, labels in loader]  # type: ignore[attr-defined]
