"""Images of every kind: as torchvision and Hugging Face read them, or refused by name; never clipped without a word."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unlearn.data import load_dataset
from unlearn.data.pixels import to_rgb

RAMP = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)


def stored(image: Any, form: str = "PNG", **more: Any) -> Any:
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return Image.open(io.BytesIO(buffer.getvalue()))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_modes_of_eight_bits_are_as_pillow_converts_them(mode: str) -> None:
    image = stored(Image.fromarray(RAMP).convert(mode))
    rgb, grey = to_rgb(image)
    assert np.array_equal(np.asarray(rgb), np.asarray(image.convert("RGB")))
    assert grey == (mode in ("1", "L", "LA"))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_upper_eight(form: str) -> None:
    values = RAMP.astype(np.uint16) * 256 + 77
    rgb, grey = to_rgb(stored(Image.fromarray(values), form))
    assert grey
    assert np.array_equal(np.asarray(rgb)[..., 0], RAMP)


@pytest.mark.parametrize(("mode", "dtype"), [("I", np.int32), ("F", np.float32)])
def test_what_would_be_clipped_is_refused_by_its_mode(mode: str, dtype: Any) -> None:
    with pytest.raises(ValueError, match=f"mode '{mode}' are not allowed; save it as 8 bits"):
        to_rgb(stored(Image.fromarray(RAMP.astype(dtype)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    image = stored(Image.fromarray(RAMP), "PNG", exif=exif)
    assert np.array_equal(np.asarray(to_rgb(image)[0]), np.asarray(ImageOps.exif_transpose(image).convert("RGB")))
    assert np.array_equal(np.asarray(to_rgb(image)[0])[..., 0], RAMP) == (orientation == 1)


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RAMP).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        for name in ("a/1.png", "a/2.png", "b/deep/1.png", "b/deep/er/2.png", "b/z.png", "b/.hidden/3.png", "b/.4.png"):
            write(tmp_path / part / name)
    return tmp_path


def folder(tree: Path) -> Any:
    return load_dataset("image_folder", train=str(tree / "train"), test=str(tree / "test"))


def test_nested_folders_are_read_as_torchvision_reads_them(tree: Path) -> None:
    from torchvision.datasets import ImageFolder

    theirs = [path for path, _ in ImageFolder(str(tree / "train")).samples if "/." not in path]
    assert len(folder(tree).train) == len(theirs) == 5


def test_an_empty_class_is_named(tree: Path) -> None:
    (tree / "train" / "aa").mkdir()
    with pytest.raises(ValueError, match="class 'aa' holds no image files"):
        folder(tree)
    (tree / "train" / "aa").rmdir()
    (tree / "test" / "b" / "z.png").unlink()
    assert folder(tree).class_names == ("a", "b")


def parquet(path: Path, labels: list[int]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(RAMP).save(buffer, "PNG")
    pq.write_table(pa.table({"image": [buffer.getvalue()] * len(labels), "label": labels}), path)
    return str(path)


@pytest.mark.parametrize(
    ("labels", "limit", "words"),
    [
        ([1, 2, 3, 1], None, "start at 1: class 0 has no image"),
        ([0, 0, 1, 1, 2, 2], {"train": 3}, "the first 3 rows hold 2 of 3 classes, as the file is sorted"),
        ([0, 0, 1, 1, 2, 2], {"train": 5}, ""),
        ([0, 1, 2, 0, 1, 2], {"train": 3}, ""),
        ([2, 0, 1, 0, 1, 2], {"train": 2}, ""),
    ],
)
def test_labels_that_leave_classes_without_images(labels: list[int], limit: Any, words: str, tmp_path: Path) -> None:
    given = {"train": parquet(tmp_path / "a.parquet", labels), "test": parquet(tmp_path / "b.parquet", labels)}
    if not words:
        assert load_dataset("parquet", limit=limit, **given).num_classes == 3
        return
    with pytest.raises(ValueError, match=words):
        load_dataset("parquet", limit=limit, **given)
