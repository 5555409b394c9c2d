"""The same on a GPU: moments, spaces and steps agree with the CPU's, and two runs agree to the bit."""

import copy

import pytest
import torch

from unlearn import second_moments

from .net import LAYERS, ten_steps, weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def test_a_gpu_agrees_with_the_cpu(model, forget, moments, data) -> None:
    there = copy.deepcopy(model).cuda()
    found = second_moments(there, [data])
    assert found.matrices["conv1"].is_cuda
    for name, matrix in moments.matrices.items():
        assert float((found.matrices[name].cpu() - matrix).abs().max() / matrix.abs().max()) < 1e-5, name
    basis = moments.decompose(minus=second_moments(model, forget))
    on_cpu = ten_steps().unlearn(model, forget=forget, moments=basis).model
    first, second = (ten_steps().unlearn(there, forget=forget, moments=found).model for _ in range(2))
    for name in LAYERS:
        assert torch.equal(weights(first)[name], weights(second)[name])
        change = weights(on_cpu)[name] - weights(model)[name]
        apart = weights(first)[name].cpu() - weights(on_cpu)[name]
        assert float(apart.norm() / weights(model)[name].norm()) < 1e-3, name
        assert float(change.norm()) > 0
