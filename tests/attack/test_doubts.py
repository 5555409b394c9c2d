"""Outputs that are not what they are given for: the audit says so first of all, and says nothing of sound ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from attack.audit.audit import Audit, audit
from attack.audit.check import Examination
from attack.audit.doubts import over_unlearned
from attack.outputs.readers import read_outputs
from attack.outputs.sources import ParquetFiles, as_source
from attack.outputs.table import logits_matrix, outputs_table

CLASSES = 4


def models(right: float = 0.9, samples: int = 40) -> pa.Table:
    """Three models of each role and fold; originals are right on a share of the samples, in every model others."""
    generator = np.random.default_rng(1)
    labels = np.arange(samples) % CLASSES
    tables = []
    for role in ("original", "retrained", "unlearned"):
        for number, fold in enumerate(("train", "train", "validation", "test", "test")):
            said = np.where(generator.random(samples) < right, labels, (labels + 2) % CLASSES)
            logits = (
                generator.normal(size=(samples, CLASSES)) * 0.3 + (3.0 + (role == "original")) * np.eye(CLASSES)[said]
            )
            method, params = ("pgu", "{}") if role == "unlearned" else ("", "{}")
            tables.append(
                outputs_table(f"{role}-{number}", role, method, params, fold, np.arange(samples), labels, logits)
            )
    return pa.concat_tables(tables)


def with_logits(table: pa.Table, logits: np.ndarray) -> pa.Table:
    column = pa.FixedSizeListArray.from_arrays(pa.array(logits.astype(np.float32).ravel()), logits.shape[1])
    return table.set_column(7, table.schema.field("logits"), column)


def softmax(table: pa.Table) -> pa.Table:
    logits = logits_matrix(table)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return with_logits(table, weights / weights.sum(axis=1, keepdims=True))


def relabelled(table: pa.Table, change: Any) -> pa.Table:
    labels = change(table["label"].to_numpy())
    return table.set_column(6, table.schema.field("label"), pa.array(labels, pa.int64()))


def found(table: pa.Table) -> Audit:
    return audit(table, ("loss_threshold",), bootstrap=50)


CASES = {
    "sound": (lambda t: t, ()),
    "probabilities": (softmax, ("probabilities?",)),
    "of three digits": (lambda t: with_logits(t, logits_matrix(softmax(t)).round(3)), ("probabilities?",)),
    "of two digits": (lambda t: with_logits(t, logits_matrix(softmax(t)).round(2)), ("probabilities?",)),
    "a little above 1": (lambda t: with_logits(t, logits_matrix(softmax(t)) + 1e-4), ("probabilities?",)),
    "percent": (lambda t: with_logits(t, (100 * logits_matrix(softmax(t))).round()), ("probabilities?",)),
    "sigmoids": (lambda t: with_logits(t, 1 / (1 + np.exp(-logits_matrix(t)))), ("probabilities?",)),
    "log probabilities": (lambda t: with_logits(t, np.log(logits_matrix(softmax(t)))), ()),
    "from one": (lambda t: relabelled(t, lambda y: (y + 1) % CLASSES), ("Are the labels right?", "count from 1?")),
    "one too low": (lambda t: relabelled(t, lambda y: (y - 1) % CLASSES), ("Are the labels right?", "1 too low")),
}


@pytest.mark.parametrize("case", CASES)
def test_what_looks_wrong_is_questioned(case: str) -> None:
    change, words = CASES[case]
    questions = found(change(models())).questions
    if not words:
        assert questions == []
    for word in words:
        assert any(word in question for question in questions), questions


@pytest.mark.parametrize("right", [0.6, 0.8, 1.0])
@pytest.mark.parametrize("samples", [12, 40])
def test_models_that_learned_something_are_not_questioned(right: float, samples: int) -> None:
    assert found(models(right, samples)).questions == []


def test_models_at_chance_are_questioned_without_a_guess_at_the_labels() -> None:
    table = relabelled(models(samples=40), lambda y: np.tile(np.random.default_rng(3).permutation(y[:40]), 15))
    questions = found(table).questions
    assert any("no better than chance" in question for question in questions)
    assert not any("count from 1" in question for question in questions)


def test_errors_are_those_of_the_outputs() -> None:
    table = models(0.8)
    rows = {row.method: row.to_json()["metrics"] for row in found(table).rows}
    for method, role in (("no_unlearn", "original"), ("pgu", "unlearned")):
        mine = table.filter(pc.and_(pc.equal(table["role"], role), pc.equal(table["fold"], "test")))
        wrong = logits_matrix(mine).argmax(axis=1) != mine["label"].to_numpy()
        assert rows[method]["error_forget"] == pytest.approx(100 * wrong.mean())


def test_originals_that_look_over_unlearned_are_questioned() -> None:
    assert over_unlearned("no_unlearn", "over-unlearned")
    assert over_unlearned("no_unlearn", "over_unlearned")
    assert not over_unlearned("no_unlearn", "remembers")
    assert not over_unlearned("pgu", "over-unlearned")


def nulled(table: pa.Table, *names: str, roles: tuple[str, ...] = ("original", "retrained")) -> pa.Table:
    mine = pc.is_in(table["role"], pa.array(roles))
    for name in names:
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, pc.if_else(mine, pa.scalar(None, pa.string()), table[name]))
    return table


@pytest.mark.medium
@pytest.mark.parametrize("names", [("method",), ("params",), ("method", "params")])
@pytest.mark.parametrize("how", ["memory", "files", "tables"])
def test_method_and_params_may_be_null_where_there_is_none(names: tuple[str, ...], how: str, tmp_path: Path) -> None:
    whole = models()
    table = nulled(whole, *names)
    pq.write_table(table, tmp_path / "o.parquet")
    paths = [str(tmp_path / "o.parquet")]
    given = {"memory": table, "files": ParquetFiles(tuple(paths)), "tables": read_outputs(paths)}[how]
    rows = [row.to_json() for row in audit(given, ("loss_threshold",), bootstrap=50).rows]
    wanted = [row.to_json() for row in found(whole).rows]
    assert [row["metrics"] for row in rows] == [row["metrics"] for row in wanted]
    assert [row["method"] for row in rows] == [row["method"] for row in wanted]


def test_a_column_of_nothing_but_nulls_is_one(tmp_path: Path) -> None:
    table = models()
    table = table.filter(pc.not_equal(table["role"], "unlearned"))
    for name in ("method", "params"):
        table = table.set_column(table.schema.get_field_index(name), name, pa.nulls(len(table)))
    pq.write_table(table, tmp_path / "o.parquet")
    assert found(table).rows[0].done
    assert audit(ParquetFiles((str(tmp_path / "o.parquet"),)), ("loss_threshold",), bootstrap=50).rows


def test_of_an_unlearned_model_they_are_needed() -> None:
    examined = Examination.of(as_source(nulled(models(), "method", roles=("unlearned",))))
    assert [str(problem) for problem in examined.problems(["loss_threshold"])] == ["method: 200 rows are null"]
