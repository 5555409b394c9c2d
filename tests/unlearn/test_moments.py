"""Second moments against float64 sums over patches; what they add up to, and what is refused."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unlearn import SecondMoments, build_model, second_moments
from unlearn.methods import IncompatibleMoments
from unlearn.moments import sums as accumulate
from unlearn.moments.conv_sums import ShiftSum, can_shift
from unlearn.moments.sums import PatchSum, ThinMoment

from . import reference_pgu as reference


def batches(images: Tensor, size: int = 7) -> list[tuple[Tensor, Tensor]]:
    return [(part, torch.zeros(len(part), dtype=torch.int64)) for part in images.split(size)]


def error(found: Tensor, exact: Tensor) -> float:
    """Largest difference, as a share of the largest entry."""
    return float((found - exact).abs().max() / exact.abs().max())


def relu_images(count: int, channels: int, size: int, seed: int = 0) -> Tensor:
    """Inputs as inner layers see them: not negative, far from centred, which is the hard case for float32 sums."""
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed)).add(0.3).relu()


CONVOLUTIONS = {
    "plain": {"padding": 1},
    "no padding": {},
    "wide padding": {"padding": 4},
    "rectangular": {"kernel_size": (3, 5), "padding": (0, 3)},
    "1x1": {"kernel_size": 1},
    "1x1 strided": {"kernel_size": 1, "stride": 2},
    "strided": {"stride": 2, "padding": 1},
    "stride in one direction": {"stride": (2, 1), "padding": 2},
    "dilated": {"dilation": 2, "padding": 2},
    "dilated and strided": {"dilation": (1, 2), "stride": 2, "padding": 1},
    "grouped": {"groups": 2, "padding": 1},
    "depthwise": {"groups": 32, "padding": 1},
    "grouped and dilated": {"groups": 2, "dilation": (2, 1), "padding": (2, 1)},
    "even kernel": {"kernel_size": 2},
    "same": {"padding": "same", "kernel_size": (3, 5)},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
    "circular": {"padding": (1, 0), "padding_mode": "circular"},
    "replicate": {"padding": 1, "padding_mode": "replicate"},
}


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
@pytest.mark.parametrize("size", [5, 9])
def test_convolutions_agree_with_a_float64_sum(options: dict, size: int) -> None:
    layer = nn.Conv2d(32, 32, **{"kernel_size": 3, **options})
    images = relu_images(12, 32, size)
    exact = reference.patches(images, layer)
    # The partial sums of n like products, added one after another, are k/n of the whole. Each addition
    # rounds evenly within u = eps/2 of its partial sum. So the sum's standard deviation is √n·u/3, since
    # the mean of (k/n)² and of the rounding's square are a third each. The largest of 288² entries is at
    # some 4.5 of these. The bound √n·eps is six, for processors that add in any order.
    bound = max(1e-6, math.sqrt(exact.shape[1]) * torch.finfo(torch.float32).eps)
    exact = exact.transpose(1, 2) @ exact
    kinds = [ShiftSum, PatchSum] if can_shift(layer) or options.get("groups") == 32 else [PatchSum]
    for kind in kinds:
        total = kind(layer, images.device)
        for part, _ in batches(images.contiguous(memory_format=torch.channels_last)):
            total.add(part)
        found = total.finish()
        found = found.dense() if isinstance(found, ThinMoment) else found
        assert found.dtype == torch.float64
        assert error(found, exact) < bound, kind.__name__
        assert error(found, found.transpose(1, 2)) < 1e-6


def test_shifts_are_taken_where_they_are_faster() -> None:
    assert can_shift(nn.Conv2d(32, 8, 3))
    for slow in (
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(32, 8, 1),
        nn.Conv2d(32, 8, 3, stride=2),
        nn.Conv2d(32, 32, 3, groups=32),
    ):
        assert not can_shift(slow)


@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": (0, 2), "dilation": (2, 1)}, {"padding": "same"}])
def test_few_patches_of_a_convolution_are_kept_themselves(options: dict) -> None:
    """While there are fewer patches than dimensions, here 144; from then on the matrix."""
    layer = nn.Conv2d(16, 4, 3, **options)
    images = relu_images(30, 16, 5)
    positions = reference.patches(images[:1], layer).shape[1]
    few = 143 // positions
    for count, kind in ((few, ThinMoment), (few + 1, Tensor), (30, Tensor)):
        total = ShiftSum(layer, images.device)
        for part in images[:count].split(2):
            total.add(part)
        found = total.finish()
        assert isinstance(found, kind)
        x = reference.patches(images[:count], layer)
        assert error(found.dense() if isinstance(found, ThinMoment) else found, x.transpose(1, 2) @ x) < 1e-6


def test_images_of_several_sizes() -> None:
    layer = nn.Conv2d(16, 4, 3, padding=1)
    parts = [relu_images(3, 16, 8), relu_images(2, 16, 6, seed=1)]
    total = ShiftSum(layer, torch.device("cpu"))
    exact = torch.zeros(1, 144, 144, dtype=torch.float64)
    for images in parts:
        total.add(images)
        x = reference.patches(images, layer)
        exact += x.transpose(1, 2) @ x
    assert error(total.finish(), exact) < 1e-6


@pytest.mark.medium
@pytest.mark.parametrize("options", [{"padding": 1}, {"dilation": (3, 1)}, {"groups": 2, "padding": (0, 2)}])
def test_large_images_stay_within_a_millionth(options: dict) -> None:
    """One image alone has more positions than one float32 sum may have, so it goes band by band."""
    layer = nn.Conv2d(32, 4, 3, **options)
    images = relu_images(2, 32, 150)
    total = ShiftSum(layer, images.device)
    total.add(images)
    found, x = total.finish(), reference.patches(images, layer)
    assert isinstance(found, Tensor)
    assert error(found, x.transpose(1, 2) @ x) < 1e-6


@pytest.mark.medium
def test_many_samples_stay_within_a_millionth() -> None:
    """Float32 rounding grows with the length of a sum; these are summed in chunks. 400,000 vectors, all positive."""
    layer = nn.Conv2d(16, 4, 3, padding=1)
    images = relu_images(400, 16, 32)
    total, exact = ShiftSum(layer, images.device), torch.zeros(1, 144, 144, dtype=torch.float64)
    for part in images.split(100):
        total.add(part)
        x = reference.patches(part, layer)
        exact += x.transpose(1, 2) @ x
    assert error(total.finish(), exact) < 1e-6
    rows = torch.rand(200_000, 40) + 1
    linear = accumulate.RowSum(1, 40, rows.device)
    for part in rows.split(9_999):
        linear.add(part)
    found = linear.finish()
    assert isinstance(found, Tensor)
    assert error(found, (rows.double().T @ rows.double())[None]) < 1e-6


class Odd(nn.Module):
    """Every kind of layer, a layer used twice, a linear layer on sequences, and one that is never reached."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(16)
        self.shift = nn.Conv2d(16, 16, 3, dilation=2)
        self.sequence = nn.Linear(16, 12)
        self.head = nn.Linear(12, 4)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.norm(self.twice(torch.relu(self.twice(x)))))
        x = torch.relu(self.sequence(self.shift(x).flatten(2).transpose(1, 2)))
        return self.head(x.mean(dim=1))


@pytest.fixture(scope="module")
def odd() -> Odd:
    torch.manual_seed(0)
    return Odd().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_whole_models_agree_with_the_reference(odd: Odd, images: Tensor) -> None:
    layers = [name for name, _ in odd.named_modules() if name in ("stem", "twice", "shift", "sequence", "head")]
    found = second_moments(odd, batches(images), layers=layers)
    exact = reference.moments(odd, images)
    assert found.count == 40
    for name in layers:
        # The activations themselves are float32 here and float64 there: a few 1e-7 on top of the sum's rounding.
        assert error(found.matrices[name], exact[name]) < 3e-6, name


def test_the_model_and_the_settings_are_left_as_they_were(odd: Odd, images: Tensor) -> None:
    model = copy.deepcopy(odd).train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        rough = second_moments(model, batches(images), layers=["stem", "sequence"])
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(precision)
    exact = second_moments(model, batches(images), layers=["stem", "sequence"])
    assert error(rough.matrices["sequence"], exact.matrices["sequence"]) < 1e-6, "whatever precision the user asked for"
    assert model.training
    assert not model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_callers_autocast_does_not_round_them(odd: Odd, images: Tensor) -> None:
    exact = second_moments(odd, batches(images)).matrices
    with torch.autocast("cpu", torch.bfloat16):
        found = second_moments(odd, batches(images)).matrices
        assert torch.is_autocast_enabled("cpu")
    assert all(torch.equal(found[name], matrix) for name, matrix in exact.items())


def test_inputs_given_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(input=x)

    rows = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    found = second_moments(Named(), batches(rows)).matrices["layer"][0]
    assert error(found, rows.double().T @ rows.double()) < 1e-6


def test_mistakes_are_told(odd: Odd, images: Tensor) -> None:
    with pytest.raises(ValueError, match="'nose' is no convolution or linear layer of the model; it has stem, twice"):
        second_moments(odd, batches(images), layers=["nose"])
    with pytest.raises(ValueError, match="a forward pass does not reach unused"):
        second_moments(odd, batches(images), layers=["stem", "unused"])
    with pytest.raises(ValueError, match="holds no images"):
        second_moments(odd, [])
    with pytest.raises(ValueError, match="augment_passes: 0"):
        second_moments(odd, batches(images), augment_passes=0)


def test_layers_that_are_not_reached_are_left_out(odd: Odd, images: Tensor) -> None:
    assert "unused" not in second_moments(odd, batches(images)).parts


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    return build_model("small_vgg", num_classes=10, width=0.25, image_size=16).eval()


def test_shards_and_subsets(vgg: nn.Module, images: Tensor) -> None:
    whole = second_moments(vgg, batches(images))
    shards = [second_moments(vgg, batches(images[i::3], 4)) for i in range(3)]
    merged = SecondMoments.merge(iter(shards))
    assert merged.count == 40
    assert merged.data_digest == whole.data_digest, "the same images, in whatever order and batches"
    rest = whole - shards[0]
    assert rest.data_digest == (shards[1] + shards[2]).data_digest
    assert rest.count == 26
    for name, matrix in whole.matrices.items():
        assert error(merged.matrices[name], matrix) < 1e-6
        assert error(rest.matrices[name], (shards[1] + shards[2]).matrices[name]) < 1e-6
    with pytest.raises(ValueError, match="none were given"):
        SecondMoments.merge([])


def test_digests(vgg: nn.Module, images: Tensor) -> None:
    moments = second_moments(vgg, batches(images))
    moments.check_data(batches(images.flip(0), 3))
    changed = images.clone()
    changed[5, 0, 0, 0] += 1e-3
    with pytest.raises(IncompatibleMoments, match="other images"):
        moments.check_data(batches(changed))
    other = copy.deepcopy(vgg)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-6
    with pytest.raises(IncompatibleMoments, match="other weights"):
        moments.check_model(other)
    theirs = second_moments(other, batches(images))
    for combined in (lambda: moments + theirs, lambda: moments - theirs, lambda: moments.subtract(theirs)):
        with pytest.raises(IncompatibleMoments, match="different models"):
            combined()
    assert moments.subtract(theirs, allow_model_change=True).model_digest == theirs.model_digest
    with pytest.raises(IncompatibleMoments, match="only one side holds the layers conv1"):
        moments + second_moments(vgg, batches(images), layers=["conv2", "conv3", "linear1", "linear2"])
    with pytest.raises(IncompatibleMoments, match="lack the layers nose"):
        moments.select(["conv1", "nose"])


def test_files(vgg: nn.Module, images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "moments.safetensors"
    moments = second_moments(vgg, batches(images))
    assert any(isinstance(part, ThinMoment) for part in moments.parts.values()), "40 vectors of 512 features"
    moments.save(path)
    moments.save(path)  # over an older one
    assert [file.name for file in tmp_path.iterdir()] == ["moments.safetensors"], "nothing temporary is left"
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode, "others may read it as they may other files"
    loaded = SecondMoments.load(path, model=vgg, data=batches(images))
    assert (loaded.count, loaded.model_digest, loaded.data_digest) == (40, moments.model_digest, moments.data_digest)
    assert list(loaded.parts) == list(moments.parts)
    for name, matrix in moments.matrices.items():
        assert error(loaded.matrices[name], matrix) < 1e-6
    dense = [name for name, part in moments.parts.items() if isinstance(part, Tensor)]
    assert all(torch.equal(loaded.matrices[name], moments.matrices[name]) for name in dense)
    with pytest.raises(IncompatibleMoments, match="other weights"):
        SecondMoments.load(path, model=build_model("small_vgg", num_classes=10, width=0.25, image_size=16, seed=1))
    with pytest.raises(IncompatibleMoments, match="other images"):
        SecondMoments.load(path, data=batches(images[1:]))
    moments.decompose().save(tmp_path / "basis.safetensors")
    with pytest.raises(IncompatibleMoments, match="holds core_basis, not second_moments"):
        SecondMoments.load(tmp_path / "basis.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(IncompatibleMoments, match="cut short"):
        SecondMoments.load(path)
    with pytest.raises(FileNotFoundError):
        SecondMoments.load(tmp_path / "none")


def test_files_do_not_hold_activations(vgg: nn.Module, images: Tensor, tmp_path: Path) -> None:
    """Thin moments hold the vectors of single samples in memory; what is written are mixtures of all of them."""
    moments = second_moments(vgg, batches(images))
    thin = moments.parts["linear1"]
    assert isinstance(thin, ThinMoment)
    moments.save(tmp_path / "moments")
    written = SecondMoments.load(tmp_path / "moments").parts["linear1"]
    assert isinstance(written, ThinMoment)
    nearest = torch.cdist(thin.rows, written.rows).min(dim=1).values / thin.rows.norm(dim=1)
    assert float(nearest.min()) > 0.3


def test_thin_moments_are_those_matrices(images: Tensor) -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(30, 64, generator=random).relu()
    rows[7] = rows[3]  # two of the same sample: a rank less
    thin = ThinMoment(rows, torch.cat([torch.ones(26), -torch.ones(4)]))
    exact = (rows[:26].double().T @ rows[:26].double()) - rows[26:].double().T @ rows[26:].double()
    assert error(thin.dense()[0], exact) < 1e-6
    values, vectors = thin.eigen()
    assert len(values) == 29
    assert bool((values[:-1] >= values[1:]).all())
    assert int((values < 0).sum()) == 4
    wide = vectors.double()
    assert error(wide @ torch.diag(values) @ wide.T, exact) < 1e-6
    assert float((wide.T @ wide - torch.eye(29)).abs().max()) < 1e-6
    assert error(thin.rotated().dense()[0], exact) < 1e-6
    empty = ThinMoment(rows[:0], torch.ones(0))
    assert empty.eigen()[1].shape == (64, 0)
    assert float(empty.dense().abs().max()) == 0.0


def test_thin_moments_become_dense_when_they_are_many(vgg: nn.Module, images: Tensor) -> None:
    linear = ["linear2"]  # 128 features
    few, more = (second_moments(vgg, batches(images[:n]), layers=linear) for n in (20, 40))
    many = SecondMoments.merge([more, more, more, few])
    assert isinstance((more + few).parts["linear2"], ThinMoment)
    assert isinstance(many.parts["linear2"], Tensor)
    assert error(many.matrices["linear2"], 3 * more.matrices["linear2"] + few.matrices["linear2"]) < 1e-6
    assert more.nbytes == 40 * 128 * 4
    assert many.nbytes == 128 * 128 * 8


def test_passes_over_an_augmenting_loader_are_averaged(vgg: nn.Module, images: Tensor) -> None:
    class Flipping:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter(batches(images.flip(3) if self.passes % 2 else images))

    averaged = second_moments(vgg, Flipping(), augment_passes=2)
    plain, flipped = (second_moments(vgg, batches(x)) for x in (images, images.flip(3)))
    assert averaged.count == 40
    for name, matrix in averaged.matrices.items():
        assert error(matrix, (plain.matrices[name] + flipped.matrices[name]) / 2) < 1e-6


def test_half_precision_models_and_float64_models(vgg: nn.Module, images: Tensor) -> None:
    double = second_moments(copy.deepcopy(vgg).double(), [(images.double(), torch.zeros(40))])
    exact = reference.moments(vgg, images)
    for name, matrix in double.matrices.items():
        assert error(matrix, exact[name]) < (1e-12 if name.startswith("conv") else 1e-6), name
