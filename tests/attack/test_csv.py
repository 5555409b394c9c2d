"""CSV and NumPy logits: what is read is what was written, and what may be something else is refused by name."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attack import read_logits
from attack.outputs.table import logits_matrix

LOGITS = np.asarray([[0.5, -1.25, 3.0], [2.0, 0.125, -7.5], [1.5, 4.0, 0.0], [-0.5, 0.25, 1e-30]])
LABELS = [2, 0, 1, 2]
IDS = [2**60 + 1, 2**53 + 1, 7, 2**63 - 1]


def write(path: Path, header: list[str] | None, *columns: Any, **how: Any) -> None:
    text = io.StringIO()
    writer = csv.writer(text, quoting=how.get("quoting", csv.QUOTE_MINIMAL), lineterminator=how.get("end", "\n"))
    if header is not None:
        writer.writerow(header)
    writer.writerows(zip(*columns, strict=True))
    path.write_bytes(how.get("mark", b"") + text.getvalue().encode())


def read(folder: Path, **more: Any) -> Any:
    model = {"model_id": "a", "role": "original", "fold": "test", "logits": "l.csv"}
    return read_logits({"models": [model], **more}, folder)


def same(table: Any, ids: list[int] = IDS) -> bool:
    return (
        table["sample_id"].to_pylist() == ids
        and table["label"].to_pylist() == LABELS
        and np.array_equal(logits_matrix(table), LOGITS.astype(np.float32))
    )


C = list(LOGITS.T)
READ = {
    "plain": (["sample_id", "0", "1", "2", "label"], (IDS, *C, LABELS), {}, {}),
    "reordered": (["2", "label", "0", "sample_id", "1"], (C[2], LABELS, C[0], IDS, C[1]), {}, {}),
    "prefixed": (["sample_id", "class_0", "class_1", "class_2", "label"], (IDS, *C, LABELS), {}, {}),
    "capitals": (["Sample_ID", "c0", "c1", "c2", " Label "], (IDS, *C, LABELS), {}, {}),
    "mark": (["sample_id", "0", "1", "2", "label"], (IDS, *C, LABELS), {"mark": b"\xef\xbb\xbf"}, {}),
    "windows": (["sample_id", "0", "1", "2", "label"], (IDS, *C, LABELS), {"end": "\r\n"}, {}),
    "quoted": (["sample_id", "0", "1", "2", "label"], (IDS, *C, LABELS), {"quoting": csv.QUOTE_ALL}, {}),
    "labels as floats": (["sample_id", "0", "1", "2", "label"], (IDS, *C, [f"{y}.0" for y in LABELS]), {}, {}),
    "named": (
        ["id", "cat", "dog", "owl", "y", "path"],
        (IDS, *C, LABELS, "abcd"),
        {},
        {"columns": {"sample_id": "id", "label": "y", "logits": ["cat", "dog", "owl"], "ignore": ["path"]}},
    ),
    "pandas index": (
        ["", "0", "1", "2", "label"],
        (IDS, *C, LABELS),
        {},
        {"columns": {"sample_id": ""}},
    ),
    "classes": (["sample_id", "5", "1", "9", "label"], (IDS, *C, LABELS), {}, {"classes": [5, 1, 9]}),
}


@pytest.mark.parametrize("case", READ)
def test_what_is_read_is_what_was_written(case: str, tmp_path: Path) -> None:
    header, columns, how, mapping = READ[case]
    write(tmp_path / "l.csv", header, *columns, **how)
    assert same(read(tmp_path, **mapping))


REFUSED = {
    "pandas index": (["", "0", "1", "2", "label"], (range(4), *C, LABELS), "column 1 '' is without a name, as pandas"),
    "id": (
        ["id", "label", "0", "1", "2"],
        (IDS, LABELS, *C),
        "column 1 'id' is not known; add to the mapping columns:",
    ),
    "extra": (["label", "0", "1", "2", "loss"], (LABELS, *C, C[0]), "column 5 'loss' is not known"),
    "two labels": (["label", "Label", "0", "1", "2"], (LABELS, LABELS, *C), "are both label"),
    "twice": (["label", "0", "1", "1"], (LABELS, *C), "column '1' is there twice"),
    "from one": (["label", "1", "2", "3"], (LABELS, *C), "start at 1"),
    "a gap": (["label", "0", "1", "3"], (LABELS, *C), r"set classes: \[0, 1, 3\]"),
    "two series": (["label", "p0", "c1", "c2"], (LABELS, *C), "not one series of classes"),
    "same number": (["label", "0", "00", "1"], (LABELS, *C), "not one series of classes"),
    "no classes": (["label"], (LABELS,), "no class columns"),
    "text": (["label", "0", "1", "2"], (LABELS, C[0], ["x", 1, 2, 3], C[2]), "line 2, column '1': 'x' is not a number"),
    "a hole": (["label", "0", "1", "2"], (LABELS, C[0], [1, "", 2, 3], C[2]), "line 3, column '1': '' is not a number"),
    "halves": (["label", "0", "1", "2"], ([0, 1, 0.5, 1], *C), "line 4, column 'label': '0.5' is not a whole number"),
    "too large": (["sample_id", "label", "0", "1", "2"], ([2**63, *IDS[1:]], LABELS, *C), r"below 2\^63"),
    "semicolons": (["label;0;1;2"], (["2;1;2;3"] * 4,), "no commas"),
    "either": (["5", "3", "9"], C, "may be a header or a row"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_be_something_else_is_refused_by_name(case: str, tmp_path: Path) -> None:
    header, columns, words = REFUSED[case]
    write(tmp_path / "l.csv", header, *columns)
    with pytest.raises(ValueError, match=words) as caught:
        read(tmp_path)
    assert str(caught.value).startswith("models.0.logits: ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_header_of_digits_is_no_sample(tmp_path: Path) -> None:
    write(tmp_path / "l.csv", ["0", "1", "2"], *C)
    np.save(tmp_path / "y.npy", LABELS)
    table = read(tmp_path, labels="y.npy")
    assert table["sample_id"].to_pylist() == [0, 1, 2, 3]
    assert np.array_equal(logits_matrix(table), LOGITS.astype(np.float32))
    write(tmp_path / "y.csv", ["0"], LABELS)
    with pytest.raises(ValueError, match=r"y.csv: 5 values for 4 rows; if its line 1 is a header, add header: true"):
        read(tmp_path, labels="y.csv")
    assert read(tmp_path, labels="y.csv", header=True)["label"].to_pylist() == LABELS
    write(tmp_path / "l.csv", ["0", "1", "2"], [1, 2], [3, 4], [5, 6])  # whole numbers throughout
    with pytest.raises(ValueError, match="header: true or header: false"):
        read(tmp_path, labels="y.npy")
    np.save(tmp_path / "y.npy", LABELS[:3])
    assert len(read(tmp_path, labels="y.npy", header=False)) == 3


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        (["sample_id", "label"], [IDS, LABELS], "columns sample_id, label; one is needed"),
        (["", "0"], [range(4), LABELS], "one is needed"),
        (None, [range(4), LABELS], "2 columns and no header"),
        (["label"], [["a", 1, 2, 3]], "line 2, column 'label': 'a'"),
    ],
)
def test_a_file_of_labels_has_one_column(header: Any, rows: Any, words: str, tmp_path: Path) -> None:
    write(tmp_path / "l.csv", ["0", "1", "2"], *C)
    write(tmp_path / "y.csv", header, *rows)
    with pytest.raises(ValueError, match=words):
        read(tmp_path, labels="y.csv")


def test_two_sources_of_one_column_must_agree(tmp_path: Path) -> None:
    write(tmp_path / "l.csv", ["sample_id", "label", "0", "1", "2"], IDS, LABELS, *C)
    np.save(tmp_path / "y.npy", LABELS)
    assert same(read(tmp_path, labels="y.npy"))
    np.save(tmp_path / "y.npy", LABELS[::-1])
    with pytest.raises(ValueError, match=r"labels: y.npy differs from the column 'label' of its CSV"):
        read(tmp_path, labels="y.npy")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.asarray([2.0**53, 1, 2, 3]), "does not hold numbers from 2\\^53 on exactly"),
        (np.asarray([2**63, 1, 2, 3], np.uint64), "below 2\\^63"),
        (np.eye(4), "shape \\(4, 4\\) is not allowed"),
        (np.asarray([np.nan, 1, 2, 3]), "whole numbers are needed"),
        (np.asarray(["0", "1", "2", "3"]), "whole numbers are needed"),
    ],
)
def test_numpy_integers_are_not_rounded(values: np.ndarray, words: str, tmp_path: Path) -> None:
    write(tmp_path / "l.csv", ["label", "0", "1", "2"], LABELS, *C)
    np.save(tmp_path / "ids.npy", values)
    with pytest.raises(ValueError, match=words):
        read(tmp_path, sample_ids="ids.npy")


names = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=8), min_size=1, max_size=4, unique=True
)


@pytest.mark.medium
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    order=st.permutations(["sample_id", "label", "c0", "c1", "c2"]),
    extra=names,
    quoted=st.booleans(),
    ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=4, max_size=4),
)
def test_any_order_reads_back_and_any_further_column_is_refused(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], extra: list[str], quoted: bool, ids: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    columns = {"sample_id": ids, "label": LABELS, "c0": C[0], "c1": C[1], "c2": C[2]}
    how = {"quoting": csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL}
    write(folder / "l.csv", order, *(columns[name] for name in order), **how)
    assert same(read(folder), ids)
    strange = [name for name in extra if name.strip().lower() not in columns and not name.strip("c ").isdecimal()]
    if strange:
        write(folder / "l.csv", [*order, *strange], *(columns[n] for n in order), *([C[0]] * len(strange)), **how)
        with pytest.raises(ValueError, match=r"column|class"):
            read(folder)
