"""Eigendecompositions of matrices that one LAPACK gives up, and of inputs that are always nought."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unlearn import PGU, second_moments
from unlearn.moments.eigen import eigh, eigh_where_alive


def padded(seed: int, alive: int = 128, places: int = 9) -> Tensor:
    """Second moments as of a 3×3 convolution of 1×1 images: eight of nine rows are nought."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(300, alive, generator=g, dtype=torch.float64) * torch.rand(alive, generator=g).double() ** 4 * 20
    x *= torch.rand(300, alive, generator=g) > 0.5
    matrix = torch.zeros(1, alive * places, alive * places, dtype=torch.float64)
    rows = torch.arange(alive) * places + places // 2
    matrix[0, rows[:, None], rows] = x.T @ x
    return matrix


@pytest.mark.parametrize("seed", [0, 5])
def test_rows_of_nought_are_left_out_and_nothing_else_changes(seed: int) -> None:
    """With MKL `torch.linalg.eigh` does not converge on the first two of these."""
    matrix = padded(seed)
    values, vectors = eigh_where_alive(matrix)
    assert values.shape == (1, 128)
    assert vectors.shape == (1, 1152, 128)
    torch.testing.assert_close(vectors @ torch.diag_embed(values) @ vectors.mT, matrix, rtol=0, atol=1e-9)
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(128, dtype=torch.float64)[None], rtol=0, atol=1e-12)
    whole = eigh(matrix)[0]
    torch.testing.assert_close(whole[:, -128:], values, rtol=0, atol=1e-9)


def test_a_second_lapack_is_asked_where_the_first_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = padded(1, alive=6, places=2)
    expected = torch.linalg.eigh(matrix)[0]

    def give_up(matrix: Tensor) -> tuple[Tensor, Tensor]:
        raise torch.linalg.LinAlgError("linalg.eigh: the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", give_up)
    values, vectors = eigh(matrix)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(vectors @ torch.diag_embed(values) @ vectors.mT, matrix)


def test_moments_of_nothing_have_no_vectors() -> None:
    values, vectors = eigh_where_alive(torch.zeros(2, 4, 4, dtype=torch.float64))
    assert (values.shape, vectors.shape) == ((2, 0), (2, 4, 0))


def test_pgu_where_a_convolution_sees_one_pixel() -> None:
    """Its basis has as many vectors as inputs that live, and γ = 1 still freezes it."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 4), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3)]
    model = nn.Sequential(*layers).eval()
    batches = [(torch.rand(60, 1, 4, 4), torch.arange(60) % 3)]
    moments = second_moments(model, batches)
    alive = int((model[1](model[0](batches[0][0])) != 0).any(dim=0).sum())
    assert 0 < alive <= 4
    assert moments.decompose().vectors["2"].shape == (1, 36, alive)
    for gamma, moves in ((0.5, True), (1.0, False)):
        method = PGU(gamma={"0": 1.0, "2": gamma, "5": 0.5}, epochs=2, lr=0.5, early_stop=None)
        result = method.unlearn(model, forget=[(batches[0][0][:6], batches[0][1][:6])], moments=moments)
        assert torch.equal(result.model[2].weight, model[2].weight) != moves
