"""Forget sets as people name them: by id, by a column, as a share, by likeness, request by request."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unlearn import Scenario, Split, load_dataset, make_split
from unlearn.data import ImageSet, make_dataset, read_column
from unlearn.data.forget_set import near_duplicates, share_of

from .test_scenario import dataset, shuffled


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two Parquet files of 30 and 10 images: who they show, when they were taken, and their names."""
    folder = tmp_path_factory.mktemp("people")
    random = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 10)):
        rows: dict[str, list[Any]] = {
            "image": [{"bytes": png(random.integers(0, 256, (8, 8, 3), np.uint8)), "path": None} for _ in range(count)],
            "label": [row % 3 for row in range(count)],
            "user_id": [f"u{row % 7}" for row in range(count)],
            "year": [2000 + row for row in range(count)],
            "name": [f"{part}-{row:03d}" for row in range(count)],
        }
        pq.write_table(pa.table(rows), folder / f"{part}.parquet")
    return folder


def split_of(folder: Path, scenario: Scenario, **more: Any) -> Split:
    options = {"train": str(folder / "train.parquet"), "test": str(folder / "test.parquet"), **more}
    return make_split(
        load_dataset("parquet", **options),
        scenario,
        0,
        ids=read_column("parquet", None, **{k: v for k, v in options.items() if k != "limit"}, limit=more.get("limit")),
        column=lambda name: read_column("parquet", name, **options),  # type: ignore[arg-type, return-value]
    )


def test_users_are_forgotten_by_a_column(people: Path) -> None:
    split = split_of(people, Scenario(where={"column": "user_id", "in": ["u2", "u5"]}))
    users = pq.read_table(people / "train.parquet")["user_id"].to_pylist()
    assert split.forget.tolist() == [row for row, user in enumerate(users) if user in ("u2", "u5")]


@pytest.mark.parametrize(
    ("where", "years"),
    [
        ({"from": 2003, "to": 2005}, [2003, 2004, 2005]),
        ({"from": 2028}, [2028, 2029]),
        ({"to": 2000}, [2000]),
        ({"equals": 2007}, [2007]),
        ({"in": [2001, "2004"]}, [2001, 2004]),
    ],
)
def test_numbers_are_tested_by_range_and_value(people: Path, where: dict[str, Any], years: list[int]) -> None:
    split = split_of(people, Scenario(where={"column": "year", **where}))
    assert (split.forget + 2000).tolist() == years


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", "train-004\n\n train-017 \ntrain-004\n"),
        ("list.csv", "\ufeffreason,id\nasked,train-017\nasked,train-004\n"),
        ("only.csv", "who\ntrain-017\ntrain-004\n"),
    ],
)
def test_ids_come_from_files(people: Path, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    split = split_of(people, Scenario(ids=str(tmp_path / name)), id_column="name")
    assert split.forget.tolist() == [4, 17]


@pytest.mark.parametrize(("ids", "name"), [("17\n4\n9\n", None), ("train-017\ntrain-004\n", "name")])
def test_a_file_that_begins_with_an_id_loses_none(people: Path, tmp_path: Path, ids: str, name: str | None) -> None:
    """The first line of a CSV file is its header: the sample it names would not be forgotten."""
    (tmp_path / "ids.csv").write_text(ids)
    with pytest.raises(ValueError, match="looks like an id; its first line must name the column: id"):
        split_of(people, Scenario(ids=str(tmp_path / "ids.csv")), id_column=name)


def test_ids_come_from_the_forget_set_of_another_run(people: Path, tmp_path: Path) -> None:
    (tmp_path / "forget.csv").write_text("sample_id,id,label,class,step\n4,,1,1,1\n17,,2,2,1\n")
    assert split_of(people, Scenario(ids=str(tmp_path / "forget.csv"))).forget.tolist() == [4, 17]
    (tmp_path / "own.csv").write_text("sample_id,id\n4,5\n17,18\n")
    assert split_of(people, Scenario(ids=str(tmp_path / "own.csv"))).forget.tolist() == [5, 18], "an id is an id"


def test_ids_come_from_parquet_and_lists_and_follow_the_limit(people: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["train-001", "train-008"]}), tmp_path / "ids.parquet")
    assert split_of(people, Scenario(ids=str(tmp_path / "ids.parquet")), id_column="name").forget.tolist() == [1, 8]
    assert split_of(people, Scenario(ids=("train-001",)), id_column="name", limit=9).forget.tolist() == [1]
    with pytest.raises(ValueError, match="1 of 1 ids are not in the training data: train-010"):
        split_of(people, Scenario(ids=("train-010",)), id_column="name", limit=9)
    assert split_of(people, Scenario(ids=(3, 1))).forget.tolist() == [1, 3]


def test_rows_are_those_of_the_classes_that_are_kept(people: Path) -> None:
    """`dataset.classes` drops rows: ids and columns must drop the same ones."""
    split = split_of(people, Scenario(ids=("train-004", "train-006")), id_column="name", classes=2)
    kept = [row for row in range(30) if row % 3 < 2]
    assert [kept[row] for row in split.forget] == [4, 6]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=8, max_size=80), st.floats(0.02, 0.9))
def test_a_fraction_is_taken_from_each_class_alike(labels: list[int], fraction: float) -> None:
    order = [np.flatnonzero(np.array(labels) == label) for label in range(4)]
    wanted = round(len(labels) * fraction)
    if wanted == 0:
        with pytest.raises(ValueError, match=r"scenario.fraction: .* is none"):
            share_of(fraction, order)
        return
    rows = share_of(fraction, order)
    assert len(rows) == len(set(rows.tolist())) == wanted
    counts = Counter(labels[row] for row in rows)
    for label, every in enumerate(order):
        assert abs(counts[label] - len(every) * fraction) < 1
        assert all(row in rows for row in every[: counts[label]])


def test_a_fraction_may_be_drawn() -> None:
    data = shuffled(each=50)
    first, second = (make_split(data, Scenario(fraction=0.1, select="random"), seed).forget for seed in (0, 1))
    assert len(first) == len(second) == 20
    assert not np.array_equal(first, second)


def test_near_identical_images_go_along() -> None:
    """A copy, a brighter one, a mirrored one and one saved again as JPEG are found, and no other."""
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (12, 8, 8, 3), np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    asked = images[3]
    buffer = io.BytesIO()
    Image.fromarray(asked).save(buffer, "JPEG", quality=75)
    copies = [asked, (asked * 0.9 + 20).astype(np.uint8), asked[:, ::-1], np.asarray(Image.open(buffer))]
    images = np.concatenate([images, np.stack(copies)])
    assert near_duplicates(images, np.array([3]), 4).tolist() == [12, 13, 14, 15]
    assert near_duplicates(images, np.array([5]), 4).tolist() == []


def test_duplicates_are_named_before_anything_runs() -> None:
    data = shuffled()
    data.train.images[:] = np.random.default_rng(0).integers(0, 256, data.train.images.shape, np.uint8)
    data.train.images[7] = data.train.images[2]
    split = make_split(data, Scenario(duplicates_of=(2,), duplicate_bits=0), 0)
    assert {2, 7} <= set(split.forget.tolist())
    assert split.notes[0].startswith(f"1 images have {len(split.forget) - 1} near-identical ones, forgotten too: ")


def test_requests_are_steps_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "requests.csv").write_text("order,id\n20,5\n3,11\n3,2\n100,7\n")
    split = make_split(shuffled(), Scenario(kind="incremental", requests=str(tmp_path / "requests.csv")), 0)
    assert [step.tolist() for step in split.steps] == [[2, 11], [5], [7]]
    assert split.forget.tolist() == [2, 5, 7, 11]
    assert split.kind == "incremental"


def test_a_class_that_vanishes_is_told() -> None:
    data = dataset([0, 0, 1, 1, 1], [0, 0, 1, 1])
    assert "every sample of class 0 is forgotten" in make_split(data, Scenario(ids=(0, 1)), 0).notes[0]
    assert make_split(data, Scenario(ids=(0,)), 0).notes == ()


def test_image_folders_name_samples_by_file(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / part / label / f"{i}.png")
    options = {"train": str(tmp_path / "train"), "test": str(tmp_path / "test"), "id_column": "file"}
    ids = read_column("image_folder", None, **options)
    split = make_split(load_dataset("image_folder", **options), Scenario(ids=("dog/2.png",)), 0, ids=ids)
    assert ids is not None
    assert ids[split.forget].tolist() == ["dog/2.png"]
    assert load_dataset("image_folder", **options).train.images[split.forget[0], 0, 0, 0] == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ids": ()}, "scenario.per_class: None"),
        (
            {"ids": (1, 2), "per_class": 3},
            "scenario.ids: .* is not allowed beside per_class; give one of per_class, ids",
        ),
        ({"fraction": 1.0}, "scenario.fraction: 1.0 is not allowed; give a number above 0 and below 1"),
        ({"fraction": True}, "scenario.fraction: True"),
        ({"ids": (1,), "select": "random"}, "scenario.select: 'random' has no meaning with ids"),
        ({"per_class": 1, "duplicate_bits": 3}, "scenario.duplicate_bits: 3 has no meaning"),
        ({"duplicates_of": (1,), "duplicate_bits": 99}, "scenario.duplicate_bits: 99"),
        ({"where": {"column": "a"}}, "scenario.where: give one test"),
        ({"where": {"in": ["a"]}}, "scenario.where: column is missing"),
        ({"where": {"colum": "a", "in": [1]}}, "'colum' is not allowed.*did you mean 'column'"),
        ({"where": {"column": "a", "in": "u1"}}, "scenario.where: in: 'u1' is not allowed; give a list"),
        ({"where": {"column": "a", "in": [1], "to": 3}}, "scenario.where: give one test"),
        ({"kind": "incremental", "requests": "r.csv", "step": 2}, "scenario.requests: .* beside step"),
        ({"kind": "incremental", "requests": "r.csv", "steps": 2}, "scenario.steps: 2 has no meaning"),
        ({"kind": "classes", "ids": (1,)}, "scenario.ids: .* has no meaning for kind 'classes'"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Scenario(**given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("scenario", "options", "message"),
    [
        (
            {"ids": tuple(f"x{i}" for i in range(9))},
            {"id_column": "name"},
            "9 of 9 ids .*: x0, x1, x2, x3, x4 …; ids look",
        ),
        ({"ids": (30, 2)}, {}, "1 of 2 ids are not in the training data: 30; without dataset.id_column .* 0 to 29"),
        ({"ids": ("u1",)}, {"id_column": "user_id"}, "dataset.id_column: several rows have the id u0, u1"),
        ({"ids": (1,)}, {"id_column": "nam"}, "dataset.id_column: .* has no column 'nam'.*did you mean 'name'"),
        ({"ids": (1,)}, {"id_column": "image"}, "dataset.id_column: column 'image' .* allowed are numbers and texts"),
        ({"where": {"column": "user", "in": ["u1"]}}, {}, "scenario.where: .* has no column 'user'"),
        ({"where": {"column": "user_id", "in": ["u1", "u77"]}}, {}, "column 'user_id' .* has no u77"),
        ({"where": {"column": "user_id", "from": 1}}, {}, "holds texts; a range needs numbers"),
        ({"where": {"column": "year", "from": "a"}}, {}, "holds numbers; give numbers"),
        ({"where": {"column": "year", "from": 1990, "to": 1991}}, {}, "no row of column 'year' lies from 1990 to 1991"),
        ({"ids": "nowhere.csv"}, {}, "scenario.ids: 'nowhere.csv' cannot be read"),
        ({"fraction": 0.001}, {}, "scenario.fraction: 0.001 of 30 training images is none"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(
    people: Path, scenario: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        split_of(people, Scenario(**scenario), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id\n1\n2\n", "no column 'order'"),
        ("id,order\n1,first\n2,2\n", "order 'first' .* is no integer"),
        ("id,order\n1,1\n1,2\n", "asks for 1 more than once"),
        ("id,order\n1,1\n2,1\n", "fewer than two requests"),
        ("id,order\n1,1\n,2\n", "empty values"),
        ("id,order\n1,1\n999,2\n", "scenario.requests: 1 of 1 ids"),
    ],
)
def test_bad_requests_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        make_split(shuffled(), Scenario(kind="incremental", requests=str(tmp_path / "r.csv")), 0)


def test_scores_choose_within_each_class() -> None:
    data = load_dataset("digits", limit={"train": 60, "test": 20})
    generator = np.random.default_rng(0)
    # the first column has ties, which the second decides
    scores = np.stack([generator.integers(0, 3, 60), generator.normal(size=60)], axis=1).astype(float)
    for order, sign in (("highest", -1), ("lowest", 1)):
        scenario = Scenario(per_class=2, select={"by": "memorization", "order": order})
        found = make_split(data, scenario, 0, scores=scores).forget.tolist()
        wanted = []
        for label in range(10):
            rows = [i for i in range(60) if data.train.labels[i] == label]
            wanted += sorted(rows, key=lambda i: (sign * scores[i, 0], sign * scores[i, 1], i))[:2]
        assert found == sorted(wanted)
    equal = make_split(data, Scenario(per_class=2, select={"by": "loss"}), 0, scores=np.zeros(60)).forget
    assert np.array_equal(equal, make_split(data, Scenario(per_class=2), 0).forget), "of equal samples the first"
    with pytest.raises(ValueError, match="scores of trained models are needed"):
        make_split(data, scenario, 0)


def test_a_copy_that_keeps_a_deleted_image_alive_is_found_and_named() -> None:
    generator = np.random.default_rng(0)
    coarse = [Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in range(120)]
    images = np.stack([np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)) for image in coarse])
    labels, ids = np.arange(120) % 4, np.asarray([f"img-{row:03d}" for row in range(120)])
    scenario = Scenario(duplicates_of=("img-007",))

    def split_of(pixels: np.ndarray) -> Split:
        data = make_dataset("photos", ImageSet(pixels, labels), ImageSet(pixels[:40], labels[:40]))
        return make_split(data, scenario, 0, ids=ids)

    nothing = split_of(images)
    assert nothing.notes == ("1 images have 0 near-identical ones, forgotten too: none",)
    assert nothing.forget.tolist() == [7]
    planted = images.copy()
    planted[90] = np.clip(images[7].astype(int) + 12 + generator.integers(-3, 4, images[7].shape), 0, 255)
    found = split_of(planted)
    assert found.forget.tolist() == [7, 90]
    assert found.notes == ("1 images have 1 near-identical ones, forgotten too: img-090",)
