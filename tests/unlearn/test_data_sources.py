"""Sources: each read from small real files, and every mistake answered with one line that names it."""

import io
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unlearn import SOURCES, load_dataset
from unlearn.data import fingerprint, read_column
from unlearn.data.sources import round_robin


def pixels(count: int, size: int = 6, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, images: list[bytes], labels: list, **columns) -> str:
    table = pa.table({"img": [{"bytes": data, "path": ""} for data in images], "label": labels, **columns})
    pq.write_table(table, path, row_group_size=4)
    return str(path)


@pytest.fixture
def files(tmp_path):
    train, test = pixels(10), pixels(6, seed=1)
    return {
        "train": write_parquet(tmp_path / "train.parquet", [png(image) for image in train], [i % 3 for i in range(10)]),
        "test": write_parquet(tmp_path / "test.parquet", [png(image) for image in test], [i % 3 for i in range(6)]),
        "image_column": "img",
    }


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits_are_split_the_same_way_every_time():
    digits = load_dataset("digits")
    assert len(digits.train) + len(digits.test) == 1797
    assert (digits.image_size, digits.channels, digits.num_classes) == (8, 1, 10)
    assert digits.train.images.max() == 255
    assert digits.train.images.min() == 0
    shares = np.bincount(digits.test.labels) / np.bincount(np.r_[digits.train.labels, digits.test.labels])
    assert np.abs(shares - 0.2).max() < 0.01
    assert load_dataset("digits").digest == digits.digest


def test_a_limit_takes_the_first_rows():
    whole, part = load_dataset("digits"), load_dataset("digits", limit={"train": 400, "test": 100})
    assert np.array_equal(part.train.images, whole.train.images[:400])
    assert np.array_equal(part.test.labels, whole.test.labels[:100])
    assert len(load_dataset("digits", limit=50).train) == 50


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"train": 5000}, "dataset.limit.train: 5000 is more than the 14"),
        ({"train": 0}, "dataset.limit.train: 0"),
        ({"val": 5}, "dataset.limit: 'val' is not allowed"),
    ],
)
def test_limits_out_of_range_are_refused(limit, message):
    with pytest.raises(ValueError, match=message) as error:
        load_dataset("digits", limit=limit)
    one_line(error)


# --- names and options ------------------------------------------------------------------------------------------------


def test_unknown_sources_and_options_name_the_nearest():
    with pytest.raises(ValueError, match=r"dataset.source: 'digit' .* did you mean 'digits'"):
        load_dataset("digit")
    with pytest.raises(ValueError, match=r"dataset.image_colum: unknown option .* did you mean 'image_column'"):
        load_dataset("parquet", train="a", test="b", image_colum="c")
    with pytest.raises(ValueError, match=r"dataset.test: missing; source 'parquet' needs it"):
        load_dataset("parquet", train="a")
    assert set(SOURCES) >= {"digits", "torchvision", "parquet", "image_folder", "tiny_imagenet"}


# --- parquet ----------------------------------------------------------------------------------------------------------


def test_parquet_gives_back_the_pixels_in_row_order(files):
    seen = []
    dataset = load_dataset("parquet", **files, on_progress=lambda done, total: seen.append((done, total)))
    assert np.array_equal(dataset.train.images, pixels(10))
    assert np.array_equal(dataset.test.images, pixels(6, seed=1))
    assert dataset.train.labels.tolist() == [i % 3 for i in range(10)]
    assert dataset.num_classes == 3
    assert seen[-1] == (16, 16)


def test_parquet_limits_keep_the_classes_of_the_whole_file(files):
    dataset = load_dataset("parquet", **files, limit={"train": 2, "test": 1})
    assert (len(dataset.train), len(dataset.test), dataset.num_classes) == (2, 1, 3)
    assert np.array_equal(dataset.train.images, pixels(10)[:2])


def test_parquet_keeps_the_first_classes_and_counts_what_is_kept(files):
    kept = [i for i in range(10) if i % 3 < 2]
    dataset = load_dataset("parquet", **files, classes=2)
    assert dataset.num_classes == 2
    assert np.array_equal(dataset.train.images, pixels(10)[kept])
    assert dataset.train.labels.tolist() == [i % 3 for i in kept]
    limited = load_dataset("parquet", **files, classes=2, limit={"train": 3})
    assert np.array_equal(limited.train.images, pixels(10)[kept[:3]])
    with pytest.raises(ValueError, match=r"dataset\.classes: 4 is not allowed; give 2 to 3"):
        load_dataset("parquet", **files, classes=4)


def test_parquet_takes_lists_and_globs(files, tmp_path):
    images = pixels(14, seed=2)
    for part in range(2):
        rows = slice(part * 7, part * 7 + 7)
        write_parquet(tmp_path / f"many-{part}.parquet", [png(i) for i in images[rows]], [0, 1, 2, 0, 1, 2, 0])
    by_glob = load_dataset("parquet", **{**files, "train": str(tmp_path / "many-*.parquet")})
    names = [str(tmp_path / f"many-{part}.parquet") for part in range(2)]
    by_list = load_dataset("parquet", **{**files, "train": names})
    assert np.array_equal(by_glob.train.images, images)
    assert by_list.digest == by_glob.digest
    backwards = load_dataset("parquet", **{**files, "train": names[::-1]}, limit={"train": 9})
    assert np.array_equal(backwards.train.images, np.concatenate([images[7:], images[:2]]))


@pytest.mark.parametrize("shape", [(6, 6, 3), (3, 6, 6), (6, 6)])
def test_parquet_takes_tensors(tmp_path, shape):
    images = pixels(5, channels=1 if len(shape) == 2 else 3)
    stored = images[..., 0] if len(shape) == 2 else images.transpose(0, 3, 1, 2) if shape[0] == 3 else images
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(stored))
    path = tmp_path / "tensors.parquet"
    pq.write_table(pa.table({"image": column, "label": [0, 1, 0, 1, 0]}), path)
    dataset = load_dataset("parquet", train=str(path), test=str(path))
    assert np.array_equal(dataset.train.images, images)


def test_parquet_takes_plain_binary_and_named_classes(tmp_path):
    images = pixels(4)
    path = tmp_path / "named.parquet"
    pq.write_table(pa.table({"image": [png(i) for i in images], "label": ["dog", "cat", "dog", "emu"]}), path)
    dataset = load_dataset("parquet", train=str(path), test=str(path))
    assert dataset.class_names == ("cat", "dog", "emu")
    assert dataset.train.labels.tolist() == [1, 0, 1, 2]


def test_greyscale_among_colour_becomes_colour_and_alone_stays_grey(tmp_path, files):
    colour, grey = pixels(2), pixels(2, channels=1)
    mixed = write_parquet(tmp_path / "mixed.parquet", [png(grey[0]), png(colour[0])], [0, 1])
    dataset = load_dataset("parquet", **{**files, "train": mixed})
    assert np.array_equal(dataset.train.images[0], np.repeat(grey[0], 3, axis=-1))
    assert np.array_equal(dataset.train.images[1], colour[0])
    only = write_parquet(tmp_path / "grey.parquet", [png(image) for image in grey], [0, 1])
    assert load_dataset("parquet", train=only, test=only, image_column="img").channels == 1


def test_images_of_other_sizes_are_named_or_resized(tmp_path, files):
    odd = write_parquet(tmp_path / "odd.parquet", [png(pixels(1)[0]), png(pixels(1, size=9)[0])], [0, 1])
    with pytest.raises(
        ValueError, match=r"odd.parquet: row 1: 9x9 pixels, others are 6x6; set dataset.image_size"
    ) as error:
        load_dataset("parquet", **{**files, "train": odd})
    one_line(error)
    assert load_dataset("parquet", **{**files, "train": odd}, image_size=8).train.images.shape == (2, 8, 8, 3)


def test_undecodable_images_are_named_by_file_and_row(tmp_path, files):
    good = png(pixels(1)[0])
    broken = write_parquet(tmp_path / "broken.parquet", [good] * 5 + [b"no image", good], [0] * 7)
    with pytest.raises(ValueError, match=r"broken.parquet: row 5: cannot be decoded as an image") as error:
        load_dataset("parquet", **{**files, "train": broken})
    one_line(error)
    torn = write_parquet(tmp_path / "torn.parquet", [good, good[: len(good) // 2]], [0, 1])
    with pytest.raises(ValueError, match=r"torn.parquet: row 1: cannot be decoded"):
        load_dataset("parquet", **{**files, "train": torn})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": "nowhere.parquet"}, "dataset.train: 'nowhere.parquet' names no file"),
        ({"test": "nowhere-*.parquet"}, r"dataset.test: 'nowhere-\*.parquet' names no file"),
        ({"train": []}, "dataset.train: no files given"),
        (
            {"image_column": "imq"},
            r"dataset.image_column: .* has no column 'imq'; it has img, label; did you mean 'img'",
        ),
        ({"label_column": "img"}, "dataset.label_column: column 'img' .* allowed are integers and strings"),
        ({"image_column": "label"}, "dataset.image_column: column 'label' .* is int64"),
        ({"image_size": -1}, "dataset.image_size: -1"),
    ],
)
def test_parquet_mistakes_are_one_clear_line(files, change, message):
    with pytest.raises(ValueError, match=message) as error:
        load_dataset("parquet", **{**files, **change})
    one_line(error)


def test_parquet_files_that_are_none_and_missing_values_are_refused(tmp_path, files):
    text = tmp_path / "text.parquet"
    text.write_text("hello")
    with pytest.raises(ValueError, match=r"text.parquet: cannot be read as Parquet") as error:
        load_dataset("parquet", **{**files, "train": str(text)})
    one_line(error)
    no_label = write_parquet(tmp_path / "no_label.parquet", [png(pixels(1)[0])] * 2, [0, None])
    with pytest.raises(ValueError, match="1 rows without a label"):
        load_dataset("parquet", **{**files, "train": no_label})
    no_image = write_parquet(tmp_path / "no_image.parquet", [png(pixels(1)[0]), None], [0, 1])
    with pytest.raises(ValueError, match="rows without image bytes"):
        load_dataset("parquet", **{**files, "train": no_image})
    negative = write_parquet(tmp_path / "negative.parquet", [png(pixels(1)[0])] * 2, [0, -1])
    with pytest.raises(ValueError, match="label -1 is not allowed"):
        load_dataset("parquet", **{**files, "train": negative})


def test_fingerprints_follow_the_contents(files, tmp_path):
    first = fingerprint("parquet", **files)
    assert fingerprint("parquet", **files) == first
    assert fingerprint("parquet", **files, image_size=8) != first
    write_parquet(tmp_path / "train.parquet", [png(image) for image in pixels(10)], [0] * 10)
    assert fingerprint("parquet", **files) != first
    assert fingerprint("digits") != fingerprint("digits", test_fraction=0.5)


@pytest.mark.long
def test_parquet_reads_s3(files, s3_server, monkeypatch):
    from pyarrow import fs

    host, _, port = s3_server.removeprefix("http://").partition(":")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3 = fs.S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True)
    s3.create_dir("data")
    for part in ("train", "test"):
        with s3.open_output_stream(f"data/set/{part}-0.parquet") as stream:
            stream.write(Path(files[part]).read_bytes())
    query = f"endpoint_override={host}%3A{port}&scheme=http&region=us-east-1"
    options = {part: f"s3://data/set/{part}-*.parquet?{query}" for part in ("train", "test")}
    remote = load_dataset("parquet", **options, image_column="img")
    assert remote.digest == load_dataset("parquet", **files).digest
    assert len(fingerprint("parquet", **options, image_column="img")) == 64
    with pytest.raises(ValueError, match=r"dataset.train: .* names no file|cannot be"):
        load_dataset("parquet", train=f"s3://data/set/other-*.parquet?{query}", test=options["test"])


# --- folders ----------------------------------------------------------------------------------------------------------


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(image))


def test_rows_go_round_the_classes():
    files, labels = round_robin([[Path("a0"), Path("a1"), Path("a2")], [], [Path("c0")]])
    assert [path.name for path in files] == ["a0", "c0", "a1", "a2"]
    assert labels.tolist() == [0, 2, 0, 0]


def test_image_folders(tmp_path):
    images = pixels(6)
    for number, image in enumerate(images):
        save(tmp_path / "train" / ("cat", "dog")[number % 2] / f"{number}.png", image)
    save(tmp_path / "test" / "dog" / "0.png", images[0])
    options = {"train": str(tmp_path / "train"), "test": str(tmp_path / "test")}
    dataset = load_dataset("image_folder", **options)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert np.array_equal(dataset.train.images, images)
    assert dataset.test.labels.tolist() == [1]
    assert load_dataset("image_folder", **options, image_size=4).image_size == 4
    before = fingerprint("image_folder", **options)
    save(tmp_path / "train" / "cat" / "0.png", images[1])
    assert fingerprint("image_folder", **options) != before
    (tmp_path / "test" / "emu").mkdir()
    with pytest.raises(ValueError, match=r"dataset.test: class .emu. has no folder"):
        load_dataset("image_folder", **options)
    with pytest.raises(ValueError, match=r"dataset.train: .* is no folder"):
        load_dataset("image_folder", **{**options, "train": str(tmp_path / "none")})
    (tmp_path / "train" / "cat" / "bad.png").write_bytes(b"bad")
    (tmp_path / "test" / "emu").rmdir()
    with pytest.raises(ValueError, match=r"bad.png: cannot be decoded"):
        load_dataset("image_folder", **options)


def test_the_published_tiny_imagenet_layout(tmp_path):
    images = pixels(6)
    names = ["n02", "n01"]
    for number in range(4):
        name = names[number % 2]
        save(tmp_path / "train" / name / "images" / f"{name}_{number // 2}.JPEG", images[number])
    save(tmp_path / "val" / "images" / "val_0.JPEG", images[4])
    save(tmp_path / "val" / "images" / "val_1.JPEG", images[5])
    annotations = tmp_path / "val" / "val_annotations.txt"
    annotations.write_text("val_0.JPEG\tn02\t0\t0\t5\t5\nval_1.JPEG\tn01\t0\t0\t5\t5\n")
    dataset = load_dataset("tiny_imagenet", root=str(tmp_path))
    assert dataset.class_names == ("n01", "n02")
    assert dataset.train.labels.tolist() == [0, 1, 0, 1]
    assert np.array_equal(dataset.train.images, images[[1, 0, 3, 2]])
    assert dataset.test.labels.tolist() == [0, 1]
    assert np.array_equal(dataset.test.images, images[[5, 4]])
    assert len(fingerprint("tiny_imagenet", root=str(tmp_path))) == 64
    annotations.write_text("val_0.JPEG\tn09\t0\n")
    with pytest.raises(ValueError, match=r"val_annotations.txt: line 1"):
        load_dataset("tiny_imagenet", root=str(tmp_path))
    annotations.unlink()
    with pytest.raises(ValueError, match=r"dataset.root: .* is missing"):
        load_dataset("tiny_imagenet", root=str(tmp_path))


# --- torchvision ------------------------------------------------------------------------------------------------------


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_torchvision_sets_are_read_from_their_own_files(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    train, test = pixels(12, size=28, channels=1), pixels(8, size=28, channels=1, seed=1)
    write_idx(raw / "train-images-idx3-ubyte", train[..., 0])
    write_idx(raw / "train-labels-idx1-ubyte", np.arange(12) % 10)
    write_idx(raw / "t10k-images-idx3-ubyte", test[..., 0])
    write_idx(raw / "t10k-labels-idx1-ubyte", np.arange(8))
    options = {"name": "FashionMNIST", "root": str(tmp_path)}
    dataset = load_dataset("torchvision", **options)
    assert np.array_equal(dataset.train.images, train)
    assert dataset.test.labels.tolist() == list(range(8))
    assert dataset.class_names[1] == "Trouser"
    assert load_dataset("torchvision", **options, limit={"test": 5}).test.labels.tolist() == list(range(5))
    before = fingerprint("torchvision", **options)
    write_idx(raw / "train-labels-idx1-ubyte", np.zeros(12))
    assert fingerprint("torchvision", **options) != before


def test_torchvision_mistakes_are_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match=r"dataset.name: 'cifar-10' .* did you mean 'CIFAR10'") as error:
        load_dataset("torchvision", name="cifar-10", root=str(tmp_path))
    one_line(error)
    with pytest.raises(
        ValueError, match=r"dataset.root: CIFAR10 cannot be read .* set dataset.download: true"
    ) as error:
        load_dataset("torchvision", name="CIFAR10", root=str(tmp_path))
    one_line(error)


# --- paths as people write them ---------------------------------------------------------------------------------------


def test_an_image_that_moves_to_another_class_is_another_fingerprint(tmp_path):
    for place in ("train/a/sub/1.png", "train/a/sub/2.png", "train/b/sub/3.png", "test/a/1.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(png(pixels(1, seed=len(place) + int(place[-5]))[0]))
    options = {part: str(tmp_path / part) for part in ("train", "test")}
    before = fingerprint("image_folder", **options)
    (tmp_path / "train/a/sub/2.png").rename(tmp_path / "train/b/sub/2.png")
    assert fingerprint("image_folder", **options) != before


def test_the_home_folder_may_be_written_short(files, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    whole = load_dataset("parquet", **files)
    short = {**files, "train": "~/train.parquet", "test": "~/test.parquet"}
    assert load_dataset("parquet", **short).digest == whole.digest
    for part in ("train", "test"):
        for number in range(2):
            folder = tmp_path / "photos" / part / str(number)
            folder.mkdir(parents=True)
            (folder / "1.png").write_bytes(png(pixels(1, seed=number)[0]))
    short = {part: f"~/photos/{part}" for part in ("train", "test")}
    long = {part: str(tmp_path / "photos" / part) for part in ("train", "test")}
    assert fingerprint("image_folder", **short) == fingerprint("image_folder", **long)
    assert read_column("image_folder", "file", **short).tolist() == ["0/1.png", "1/1.png"]
    with pytest.raises(ValueError, match="~no-such-user"):
        load_dataset("image_folder", train="~no-such-user/x", test="~no-such-user/y")


def test_brackets_in_the_name_of_a_folder_are_no_pattern(files, tmp_path):
    (tmp_path / "data [old]").mkdir()
    Path(files["train"]).rename(tmp_path / "data [old]" / "train-0.parquet")
    pattern = str(tmp_path / "data [old]" / "train-*.parquet")
    assert len(load_dataset("parquet", **{**files, "train": pattern}).train) == 10
    with pytest.raises(ValueError, match=r"it is a folder; give its files, as '.*/\*\.parquet'"):
        load_dataset("parquet", **{**files, "train": str(tmp_path / "data [old]")})


def test_parts_may_differ_in_how_wide_their_integers_are(tmp_path):
    image = [png(image) for image in pixels(3)]
    kinds = {"long": pa.int64(), "short": pa.int32()}
    for name, kind in kinds.items():
        write_parquet(tmp_path / f"{name}.parquet", image, [0, 1, 2], user=pa.array([1, 2, 3], kind))
    nothing = pa.table(
        {"img": pa.array([], pa.null()), "label": pa.array([], pa.null()), "user": pa.array([], pa.null())}
    )
    pq.write_table(nothing, tmp_path / "nothing.parquet")
    parts = [str(tmp_path / f"{name}.parquet") for name in (*kinds, "nothing")]
    options = {"train": parts, "test": parts[0], "image_column": "img"}
    assert read_column("parquet", "user", **options).tolist() == [1, 2, 3, 1, 2, 3]
    assert len(load_dataset("parquet", **options).train) == 6
    write_parquet(tmp_path / "text.parquet", image, [0, 1, 2], user=["1", "2", "3"])
    with pytest.raises(ValueError, match="column 'user' holds numbers in one file and texts in another"):
        read_column("parquet", "user", **{**options, "train": [parts[0], str(tmp_path / "text.parquet")]})
    with pytest.raises(ValueError, match="holds no rows"):
        load_dataset("parquet", **{**options, "train": parts[2]})
