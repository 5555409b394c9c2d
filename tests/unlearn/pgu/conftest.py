"""The network of `net`, trained, with its forget set, moments and float64 moments."""

import copy

import pytest
from torch import Tensor

from unlearn import SecondMoments, second_moments

from .. import reference_pgu as reference
from .net import Batches, Net, batches, fitted, patterned


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return patterned(400, 1)


@pytest.fixture(scope="module")
def held_out() -> Batches:
    return batches(*patterned(200, 2))


@pytest.fixture(scope="module")
def trained(data: tuple[Tensor, Tensor]) -> Net:
    return fitted(*data)


@pytest.fixture(scope="module")
def model(trained: Net) -> Net:
    """The trained model without dropout, so that runs can be compared weight by weight."""
    plain = copy.deepcopy(trained)
    plain.dropout.p = 0.0
    return plain


@pytest.fixture(scope="module")
def forget(data: tuple[Tensor, Tensor]) -> Batches:
    return batches(data[0][:40], data[1][:40], 16)


@pytest.fixture(scope="module")
def moments(model: Net, data: tuple[Tensor, Tensor]) -> SecondMoments:
    return second_moments(model, batches(*data))


@pytest.fixture(scope="module")
def exact(model: Net, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return reference.moments(model, data[0][40:])
