"""The core gradient space: k under both criteria, projections by either side, and what spoiled moments show."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unlearn import (
    ArrayLoader,
    CoreBasis,
    Scenario,
    SecondMoments,
    Training,
    build_model,
    load_dataset,
    make_split,
    second_moments,
    train,
)
from unlearn.methods import IncompatibleMoments
from unlearn.moments.basis import Projector
from unlearn.moments.sums import ThinMoment

from . import reference_pgu as reference

GAMMAS = [0.0, 0.1, 0.5, 0.75, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.9999, 1.0]


def moments_of(matrix: Tensor | ThinMoment, digest: str = "m") -> SecondMoments:
    return SecondMoments({"layer": matrix}, 10, digest)


def positive(groups: int, size: int, seed: int = 0) -> Tensor:
    rows = torch.randn(groups, 3 * size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rows = rows * torch.logspace(0, -2, size, dtype=torch.float64)
    return rows.transpose(1, 2) @ rows


@pytest.mark.parametrize("criterion", ["singular", "energy"])
@pytest.mark.parametrize("groups", [1, 3])
def test_ranks_are_those_of_the_formula(criterion: str, groups: int) -> None:
    matrix = positive(groups, 30)
    basis = moments_of(matrix).decompose()
    for gamma in GAMMAS:
        exact = [reference.rank(values.flip(0), gamma, criterion) for values in torch.linalg.eigvalsh(matrix)]
        assert basis.ranks("layer", gamma, criterion) == exact
        assert basis.rank("layer", gamma, criterion) == max(exact)
        assert basis.ranks("layer", gamma, criterion, extra=1) == [min(30, k + 1) for k in exact]


def test_the_two_criteria_on_a_spectrum_done_by_hand() -> None:
    basis = moments_of(torch.diag(torch.tensor([16.0, 9.0, 4.0, 1.0], dtype=torch.float64))[None]).decompose()
    # s = 4, 3, 2, 1: shares 0.4, 0.7, 0.9, 1.0. Energy shares: 16/30, 25/30, 29/30, 1.
    assert [basis.rank("layer", g, "singular") for g in (0.39, 0.41, 0.71, 0.95)] == [0, 1, 2, 3]
    assert [basis.rank("layer", g, "energy") for g in (0.39, 0.54, 0.84, 0.97)] == [1, 2, 3, 4]


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.9, 0.999, 1.0])
def test_projection_is_the_dense_one_from_either_side(groups: int, gamma: float) -> None:
    matrix = positive(groups, 24)
    basis = moments_of(matrix).decompose()
    gradient = torch.randn(groups * 5, 4, 3, 2, generator=torch.Generator().manual_seed(1))
    grouped = gradient.double().reshape(groups, 5, 24)
    exact = (grouped - grouped @ reference.projection(matrix, gamma, "singular")).reshape(gradient.shape)
    projector = basis.projector("layer", gamma)
    found = projector.residual(gradient)
    assert found.shape == gradient.shape
    assert float((found - exact).abs().max()) < 1e-5
    assert torch.allclose(projector.residual(found), found, atol=1e-5), "a projection: once is as good as twice"
    if projector.factor is not None:
        assert groups > 1 or projector.factor.shape[2] <= 12, "the narrower side"
    core = basis.core("layer", gamma)
    assert core.shape == (groups, 24, basis.rank("layer", gamma))
    inside = torch.bmm(found.reshape(groups, -1, 24), core)
    assert inside.numel() == 0 or float(inside.abs().max()) < 1e-5, "nothing is left inside the core space"


def test_both_sides_are_taken() -> None:
    basis = moments_of(positive(1, 24)).decompose()
    few, many = basis.projector("layer", 0.3), basis.projector("layer", 0.99)
    assert not few.complement
    assert few.factor is not None
    assert few.factor.shape[2] == basis.rank("layer", 0.3)
    assert many.complement
    assert many.factor is not None
    assert many.factor.shape[2] == 24 - basis.rank("layer", 0.99)
    assert basis.projector("layer", 1.0).frozen
    assert not basis.projector("layer", 0.0).frozen


@pytest.mark.parametrize("gamma", [0.5, 0.95, 0.9999, 1.0])
def test_thin_moments_give_the_same_projection(gamma: float) -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(20, 50, generator=random) * torch.logspace(0, -1.5, 20)[:, None]
    thin = ThinMoment(rows, torch.ones(20))
    gradient = torch.randn(7, 50, generator=random)
    by_side = moments_of(thin).decompose()
    assert by_side.vectors["layer"].shape == (1, 50, 20)
    dense = moments_of(thin.dense()).decompose()
    assert by_side.rank("layer", gamma) == dense.rank("layer", gamma)
    found, exact = (basis.projector("layer", gamma).residual(gradient) for basis in (by_side, dense))
    assert float((found - exact).abs().max()) < 1e-4  # the dense one went through a float32 product
    if gamma == 0.9999:
        # More directions than the samples span do not exist here; a whole layer is frozen by γ = 1 alone.
        assert by_side.projector("layer", gamma, extra=5).residual(gradient).abs().max() > 0.1


def test_a_difference_is_decomposed_without_being_held() -> None:
    first, second = positive(2, 20), positive(2, 20, seed=1)
    whole, part = moments_of(first + second), moments_of(second)
    found, exact = whole.decompose(minus=part), (whole - part).decompose()
    assert torch.allclose(found.values["layer"], exact.values["layer"])
    assert found.model_digest == "m"
    with pytest.raises(IncompatibleMoments, match="different models"):
        whole.decompose(minus=moments_of(second, "other"))


def test_small_negative_eigenvalues_are_clipped_and_large_ones_told() -> None:
    vectors = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]

    def basis_of(smallest: float) -> CoreBasis:
        values = torch.tensor([9.0, 4.0, 1.0, 1.0, 1.0, smallest], dtype=torch.float64)
        return moments_of((vectors @ torch.diag(values) @ vectors.T)[None]).decompose()

    rounding = basis_of(-1e-9)
    assert rounding.warnings == []
    assert rounding.rank("layer", 0.999) == 4, "3 + 2 + 1 + 1 + 1 = 8: nothing is added by what is clipped"
    spoiled = basis_of(-0.5)
    assert len(spoiled.warnings) == 1
    assert "layer: an eigenvalue of -0.5 beside a largest of 9" in spoiled.warnings[0]
    assert "more was subtracted than the moments held" in spoiled.warnings[0]


def test_subtracting_other_data_is_seen() -> None:
    random = torch.Generator().manual_seed(0)
    own, other = (torch.randn(60, 20, dtype=torch.float64, generator=random) for _ in range(2))
    whole = moments_of((own.T @ own)[None])
    right, wrong = (moments_of((x[:15].T @ x[:15])[None]) for x in (own, 5 * other))
    assert whole.decompose(minus=right).warnings == []
    assert len(whole.decompose(minus=wrong).warnings) == 1
    thin = moments_of(ThinMoment(own[:10].float(), torch.ones(10)))
    gone = moments_of(ThinMoment(other[:5].float(), torch.ones(5)))
    assert len(thin.decompose(minus=gone).warnings) == 1


def test_a_layer_that_saw_nothing_is_free() -> None:
    basis = moments_of(torch.zeros(1, 5, 5, dtype=torch.float64)).decompose()
    assert basis.warnings == []
    assert basis.rank("layer", 0.95) == 0
    assert basis.rank("layer", 1.0) == 5


def test_mistakes_are_told() -> None:
    basis = moments_of(positive(1, 5)).decompose()
    with pytest.raises(ValueError, match="criterion: 'variance' is not allowed; allowed are singular, energy"):
        basis.rank("layer", 0.5, "variance")
    with pytest.raises(ValueError, match=r"gamma: 1\.5 is not allowed; give 0 to 1"):
        basis.rank("layer", 1.5)


def test_files(tmp_path: Path) -> None:
    basis = moments_of(positive(2, 8)).decompose()
    basis.warnings.append("spoiled")
    basis.save(tmp_path / "basis")
    loaded = CoreBasis.load(tmp_path / "basis")
    assert torch.equal(loaded.vectors["layer"], basis.vectors["layer"])
    assert torch.equal(loaded.values["layer"], basis.values["layer"])
    assert (loaded.model_digest, loaded.data_digest, loaded.warnings) == ("m", basis.data_digest, ["spoiled"])
    (tmp_path / "basis").write_bytes(b"\x00" * 64)
    with pytest.raises(IncompatibleMoments, match="not readable as core_basis"):
        CoreBasis.load(tmp_path / "basis")


def test_an_empty_projector_is_the_whole_space_or_nothing() -> None:
    gradient = torch.ones(2, 3)
    assert torch.equal(Projector(None, False).residual(gradient), gradient)
    assert torch.equal(Projector(None, True).residual(gradient), torch.zeros(2, 3))


@pytest.mark.medium
@pytest.mark.parametrize("classes", [(0, 1, 2, 3, 4), (7,)], ids=["half of the classes", "one class"])
def test_classes_are_taken_off_as_they_were_summed(classes: tuple[int, ...]) -> None:
    """Totals are summed under augmentation. With the forget set augmented too, what is left is the retain set's."""
    data = load_dataset("digits", limit={"train": 1400, "test": 100})
    split = make_split(data, Scenario(kind="classes", classes=classes), 0)
    model = build_model("small_vgg", num_classes=10, in_channels=1, image_size=8, width=0.125, seed=0)
    options = {"mean": data.mean, "std": data.std, "batch_size": 64}

    def loader(rows, augment, seed):
        return ArrayLoader(data.train.images, data.train.labels, rows, augment=augment, seed=seed, **options)

    train(model, loader(None, "crop_flip", 0), Training(epochs=3, batch_size=64), seed=0)
    total = second_moments(model, loader(None, "crop_flip", 0))
    assert total.augment == "crop_flip"
    # What the retain set's moments are, over many draws.
    passes = [second_moments(model, loader(split.retain, "crop_flip", seed)) for seed in range(10, 15)]
    gamma, outside = 0.9, {}
    for augment in ("crop_flip", None):
        basis = total.decompose(minus=second_moments(model, loader(split.forget, augment, 1)))
        shares = []
        for name in total.parts:
            core = basis.core(name, gamma, "energy")[0].double()
            matrix = sum(each.matrices[name] for each in passes)[0]
            inside = (core.T @ matrix @ core).diagonal().sum()
            shares.append(1.0 - float(inside / matrix.diagonal().sum()))
        outside[augment] = max(shares)
        if augment:
            assert basis.warnings == [], "random augmentation is no fault of the data"
    assert outside["crop_flip"] < 1.5 * (1 - gamma)
    if len(classes) > 1:
        assert outside[None] > 2 * outside["crop_flip"]
