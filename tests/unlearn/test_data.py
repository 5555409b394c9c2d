"""Images in memory and the loader of the fast path."""

import numpy as np
import pytest
import torch
from torchvision import transforms
from torchvision.transforms import functional as TF

from unlearn import ArrayLoader, ImageDataset, ImageSet
from unlearn.core.seeds import stream
from unlearn.data import as_tensor, make_dataset
from unlearn.data.augment import PADDING, Draws, crop_flip, draw
from unlearn.data.images import channel_statistics


def some_images(count: int = 23, size: int = 8, channels: int = 3, seed: int = 0) -> ImageSet:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
    return ImageSet(images, random.integers(0, 5, count))


def some_loader(images: ImageSet, **options) -> ArrayLoader:
    channels = images.images.shape[-1]
    settings = {"mean": (0.4, 0.5, 0.6)[:channels], "std": (0.2, 0.25, 0.3)[:channels], "batch_size": 5, **options}
    return ArrayLoader(images.images, images.labels, **settings)


def read_only(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def test_statistics_are_those_of_the_scaled_pixels():
    images = some_images(40).images
    mean, std = channel_statistics(images)
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 1, 2)), rtol=1e-12)


def test_a_constant_channel_is_normalised_to_zero_not_to_nan():
    mean, std = channel_statistics(np.full((3, 4, 4, 1), 51, dtype=np.uint8))
    assert mean == pytest.approx((0.2,))
    assert std == (1.0,)


def test_a_dataset_survives_arrays_that_come_back_read_only():
    dataset = make_dataset("some", some_images(), some_images(seed=1), tuple("abcde"))
    arrays = {name: read_only(array) for name, array in dataset.to_arrays().items()}
    again = ImageDataset.from_arrays(arrays)
    assert again.digest == dataset.digest
    assert (again.name, again.class_names, again.mean, again.std) == ("some", tuple("abcde"), dataset.mean, dataset.std)
    assert again.train.images is arrays["train_images"]
    batches = list(some_loader(again.train))  # a read-only array must not warn: warnings fail this suite
    assert sum(len(labels) for _, labels in batches) == 23
    changed = arrays["test_labels"].copy()
    changed[0] += 1
    recomputed = ImageDataset(
        "some", again.train, ImageSet(again.test.images, changed), 6, tuple("abcdef"), again.mean, again.std
    )
    assert recomputed.digest != dataset.digest


def test_a_wrapped_read_only_array_stays_alive():
    array = read_only(np.arange(1_000_000))
    tensor = as_tensor(array)
    address = array.__array_interface__["data"][0]
    assert tensor.data_ptr() == address
    del array
    np.zeros(1_000_000)
    assert torch.equal(tensor, torch.arange(1_000_000))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), np.zeros(2, np.int64), "images: float32"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int64), "images: uint8 of shape"),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, np.int64), "labels: int64 of shape"),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int32), "labels: int32"),
    ],
)
def test_image_sets_of_other_types_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageSet(images, labels)


def test_images_that_are_not_square_are_refused():
    tall = ImageSet(np.zeros((2, 6, 4, 1), np.uint8), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match=r"4x6 pixels; they must be square: set dataset.image_size"):
        make_dataset("some", tall, tall)


def test_labels_beyond_the_classes_are_refused():
    with pytest.raises(ValueError, match=r"train labels run from 0 to 4; allowed are 0 to 2"):
        make_dataset("some", some_images(), some_images(), num_classes=3)


@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_what_totensor_and_normalize_give(channels):
    images = some_images(channels=channels)
    loader = some_loader(images)
    reference = transforms.Compose([transforms.ToTensor(), transforms.Normalize(loader.mean, loader.std)])
    expected = torch.stack([reference(image) for image in images.images])
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [5, 5, 5, 5, 3]
    assert len(loader) == 5
    assert loader.dataset_size == 23
    got = torch.cat([batch for batch, _ in batches])
    assert torch.equal(got, expected)
    assert batches[0][0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.from_numpy(images.labels))


def test_indices_choose_rows_in_their_order():
    images = some_images()
    rows = np.array([7, 3, 3, 20])
    got = torch.cat([labels for _, labels in some_loader(images, indices=rows)])
    assert got.tolist() == images.labels[rows].tolist()


def test_passes_differ_are_repeatable_and_hold_every_row_once():
    images = some_images()
    images = ImageSet(images.images, np.arange(23))
    loader = some_loader(images, shuffle=True, augment="crop_flip", seed=4)
    passes = [[torch.cat(part) for part in zip(*loader, strict=True)] for _ in range(3)]
    orders = [labels.tolist() for _, labels in passes]
    assert all(sorted(order) == list(range(23)) for order in orders)
    assert orders[0] != orders[1]
    assert orders[1] != orders[2]
    loader.set_epoch(1)
    again = [torch.cat(part) for part in zip(*loader, strict=True)]
    assert torch.equal(again[0], passes[1][0])
    assert again[1].tolist() == orders[1]
    other = some_loader(images, shuffle=True, augment="crop_flip", seed=5)
    assert torch.cat([labels for _, labels in other]).tolist() != orders[0]


def test_global_generators_neither_matter_nor_move():
    loader = some_loader(some_images(), shuffle=True, augment="crop_flip")
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    state = torch.random.get_rng_state()
    first = torch.cat([batch for batch, _ in loader])
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    loader.set_epoch(0)
    assert torch.equal(torch.cat([batch for batch, _ in loader]), first)


def test_loaders_share_a_tensor_of_images():
    images = some_images()
    tensor = as_tensor(images.images)
    first, second = (ArrayLoader(tensor, images.labels, mean=(0,) * 3, std=(1,) * 3, batch_size=4) for _ in range(2))
    assert first.images.data_ptr() == second.images.data_ptr() == tensor.data_ptr()
    assert first.replace(batch_size=2).images.data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0"),
        ({"augment": "mirror"}, "augment: 'mirror'"),
        ({"indices": [23]}, "indices: give row numbers from 0 to 22"),
        ({"indices": [-1]}, "indices"),
        ({"std": (0.0, 1.0, 1.0)}, "deviations above 0"),
        ({"mean": (0.5,)}, "give 3 numbers each"),
        ({"seed": -1}, "seed: -1"),
    ],
)
def test_options_that_make_no_loader_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        some_loader(some_images(), **options)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_crop_and_flip_is_torchvisions(channels):
    """All 81 offsets, mirrored and not, against torchvision's own padding, crop and flip of the same image."""
    size = 7
    image = some_images(1, size=size, channels=channels).images[0]
    offsets = [(top, left) for top in range(2 * PADDING + 1) for left in range(2 * PADDING + 1)]
    padded = TF.pad(torch.from_numpy(image).permute(2, 0, 1), [PADDING] * 4)
    for flip in (False, True):
        draws = Draws(torch.tensor(offsets), torch.full((len(offsets),), flip))
        got = crop_flip(torch.from_numpy(image).expand(len(offsets), -1, -1, -1), draws)
        for number, (top, left) in enumerate(offsets):
            expected = TF.crop(padded, top, left, size, size)
            expected = TF.hflip(expected) if flip else expected
            assert torch.equal(got[number].permute(2, 0, 1), expected)


def test_offsets_and_flips_are_uniform_and_independent():
    """Chi-squared over the 81 × 2 outcomes; the bound is the 1 - 1e-6 quantile for 161 degrees of freedom."""
    count = 200_000
    draws = draw(stream(3, 0), count, "crop_flip")
    outcome = (draws.offset[:, 0] * 9 + draws.offset[:, 1]) * 2 + draws.flip
    observed = torch.bincount(outcome, minlength=162).double()
    assert len(observed) == 162
    statistic = ((observed - count / 162) ** 2 / (count / 162)).sum()
    assert statistic < 262


def test_flip_alone_moves_nothing():
    draws = draw(stream(3, 0), 1000, "flip")
    images = torch.randint(0, 256, (1000, 6, 6, 3), dtype=torch.uint8)
    got = crop_flip(images, draws)
    expected = torch.where(draws.flip[:, None, None, None], images.flip(2), images)
    assert torch.equal(got, expected)
    assert 400 < int(draws.flip.sum()) < 600
