"""Class removal: columns of the logits are kept classes only, so φ is read from the label's own column or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attack import outputs_table, read_outputs
from attack.audit.audit import audit, check, run_attacks
from attack.audit.check import Examination
from attack.outputs.confidence import phi
from attack.outputs.sources import ParquetFiles, Tables
from attack.outputs.table import CLASSES_KEY, logits_matrix

CLASSES, SAMPLES = 6, 12
FORGOTTEN = {"front": (0, 1), "middle": (2, 3), "end": (4, 5)}
LABEL_READING = ("lira", "u_lira", "rmia", "loss_threshold")


def kept_of(where: str) -> list[int]:
    return [c for c in range(CLASSES) if c not in FORGOTTEN[where]]


def outputs(where: str, *, told: bool, forgotten_labels: bool = True) -> pa.Table:
    """Models of both roles whose logits have the kept classes' columns; labels are forgotten classes, or kept ones."""
    kept = kept_of(where)
    labels = np.resize(FORGOTTEN[where] if forgotten_labels else kept, SAMPLES)
    tables = []
    for role in ("original", "retrained"):
        for number, fold in enumerate(("train", "train", "validation", "test", "test", "test")):
            logits = np.random.default_rng([number, len(role)]).normal(size=(SAMPLES, len(kept)))
            ids = np.arange(SAMPLES)
            classes = kept if told else None
            tables.append(outputs_table(f"{role}{number}", role, "", "{}", fold, ids, labels, logits, classes))
    return pa.concat_tables(tables)


def in_memory(table: pa.Table, folder: Path) -> Any:
    return Tables((table,))


def streamed(table: pa.Table, folder: Path) -> Any:
    pq.write_table(table, folder / "streamed.parquet", row_group_size=17)
    return ParquetFiles((str(folder / "streamed.parquet"),))


def read_whole(table: pa.Table, folder: Path) -> Any:
    pq.write_table(table, folder / "whole.parquet")
    return Tables(tuple(read_outputs(folder / "whole.parquet")))


READERS: list[Callable[[pa.Table, Path], Any]] = [in_memory, streamed, read_whole]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("where", FORGOTTEN)
def test_a_label_without_a_column_is_never_read_from_another_classs(where: str, reader: Any, tmp_path: Path) -> None:
    source = reader(outputs(where, told=True), tmp_path)
    for name in LABEL_READING:
        problems = [str(problem) for problem in check(source, [name])]
        assert any(f"class {FORGOTTEN[where][0]} was dropped" in problem for problem in problems), name
    row = run_attacks(source, ["entropy_threshold"], bootstrap=20)[0]
    assert row["metrics"]["klom/p95"] is None
    assert row["metrics"]["forgetting_quality/score"] is None


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("where", FORGOTTEN)
def test_a_kept_label_is_read_from_its_own_column(where: str, reader: Any, tmp_path: Path) -> None:
    table = outputs(where, told=True, forgotten_labels=False)
    places = np.searchsorted(kept_of(where), table["label"].to_numpy())
    found = Examination.of(reader(table, tmp_path)).measured()
    assert np.array_equal(found.phi.reshape(-1), phi(logits_matrix(table), places))


@pytest.mark.parametrize("where", FORGOTTEN)
def test_told_only_how_many_classes_there_are_nothing_is_read_from_the_labels_column(where: str) -> None:
    """Column c need not be class c: KLoM and ε would be of another class's margin just as an attack would."""
    table = outputs(where, told=False)
    assert np.isnan(Examination.of(Tables((table,)), CLASSES).measured().phi).all()
    for name in LABEL_READING:
        assert any("read the label's own logit" in str(p) for p in check(table, [name], num_classes=CLASSES)), name
    row = run_attacks(table, ["entropy_threshold"], num_classes=CLASSES, bootstrap=20)[0]
    assert row["metrics"]["klom/p95"] is None
    assert row["metrics"]["forgetting_quality/score"] is None
    assert any("no column is known" in note for note in row["notes"])


def test_classes_that_are_not_as_many_as_the_columns_are_refused() -> None:
    table = outputs("front", told=True).replace_schema_metadata({CLASSES_KEY: b"[2, 3]"})
    assert [str(p) for p in check(table, ["xgboost"])] == [
        "logits: 4 columns, but the table names another number of classes for them"
    ]


def with_set(name: str, labels: list[int], width: int) -> pa.Table:
    """Outputs of one original and one retrained model a fold on samples of a set."""
    tables = []
    for role in ("original", "retrained"):
        for fold in ("train", "train", "validation", "test"):
            ids, name_of = np.arange(len(labels)), f"{role}-{fold}-{len(tables)}"
            logits = np.random.default_rng(len(tables)).normal(size=(len(labels), width))
            tables.append(outputs_table(name_of, role, "", "{}", fold, ids, np.asarray(labels), logits))
    table = pa.concat_tables(tables)
    return table.append_column("set", pa.array([name] * len(table)))


@pytest.mark.parametrize("name", ["retain", "validation", "test"])
def test_labels_of_any_set_that_have_no_column_are_refused(name: str) -> None:
    """Classes 0 and 1 are gone, so forget labels fit four columns by their numbers, and are read from others' columns."""
    forget, others = with_set("forget", [0, 1] * 6, 4), with_set(name, [2, 3, 4, 5] * 3, 4)
    with pytest.raises(ValueError, match=f"label: 5 in set {name} lies outside 0 … 3, so classes were dropped"):
        run_attacks(pa.concat_tables([forget, others]), ["entropy_threshold"], bootstrap=20)
    whole = pa.concat_tables([with_set("forget", [0, 1] * 6, 6), with_set(name, [2, 3, 4, 5] * 3, 6)])
    assert run_attacks(whole, ["entropy_threshold"], bootstrap=20)
    rows = run_attacks(pa.concat_tables([forget, others]), ["entropy_threshold"], num_classes=6, bootstrap=20)
    assert rows[0]["metrics"]["klom/p95"] is None


def test_forgotten_columns_that_nobody_told_of_are_asked_about() -> None:
    """The labels fit by their numbers only: originals are then right as often as by chance."""
    found = audit(outputs("front", told=False), ["entropy_threshold"], bootstrap=20)
    assert any("columns of forgotten classes dropped" in question for question in found.questions)
    told = audit(outputs("front", told=True), ["entropy_threshold"], bootstrap=20)
    assert not any("dropped from the logits?" in question for question in told.questions)
