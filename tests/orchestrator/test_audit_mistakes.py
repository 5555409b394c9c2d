"""Outputs, arguments and mappings of `orchestrator audit` that cannot be used: what is wrong is said before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from orchestrator.commands.cli import main

from .test_audit import CLASSES, MODELS, SAMPLES, audit_outputs, run, without  # noqa: F401 - a fixture


def with_logit(table: pa.Table, value: float) -> pa.Table:
    values = np.asarray(table["logits"].combine_chunks().flatten()).copy()
    values[7] = value
    return table.set_column(7, "logits", pa.FixedSizeListArray.from_arrays(pa.array(values), CLASSES))


def column(name: str, values: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda t: t.set_column(t.schema.get_field_index(name), name, values(t))


BROKEN: dict[str, tuple[Callable[[pa.Table], pa.Table], str, list[str]]] = {
    "no role column": (
        lambda t: t.drop_columns(["role"]),
        "all",
        ["role: the column is missing; there are model_id, method, params, fold, sample_id, label, logits"],
    ),
    "no fold column": (lambda t: t.drop_columns(["fold"]), "xgboost", ["fold: the column is missing; there are"]),
    "an unknown role": (
        column("role", lambda t: pa.array(["orginal"] * len(t))),
        "xgboost",
        ["role: 'orginal' is not allowed; allowed are original, retrained, unlearned"],
    ),
    "no retrained models": (
        lambda t: without(t, "retrained", "train", "validation", "test"),
        "xgboost,lira,rmia,u_lira",
        [
            "role: 0 retrained models in fold test; the audit needs at least 1",
            "role: 0 retrained models in fold train; xgboost needs at least 1",
            "role: 0 retrained models in fold validation; xgboost needs at least 1",
            "role: 0 retrained models in folds train and validation; lira, rmia, u_lira need at least 2",
        ],
    ),
    "no validation fold": (
        lambda t: without(without(t, "original", "validation"), "retrained", "validation"),
        "loss_threshold",
        [
            "role: 0 original models in fold validation; loss_threshold needs at least 1",
            "role: 0 retrained models in fold validation; loss_threshold needs at least 1",
        ],
    ),
    "methods unlearned in the test fold only": (
        lambda t: without(t, "unlearned", "train", "validation"),
        "u_lira",
        [
            "role: 0 unlearned models of good {} in folds train and validation; u_lira needs at least 2: unlearn the train and validation originals too",
            "role: 0 unlearned models of idle {} in folds",
        ],
    ),
    "NaN": (
        lambda t: with_logit(t, np.nan),
        "all",
        ["logits: 1 rows hold NaN or infinity, the first sample_id 1 of model 'original-0'; mend that model's outputs"],
    ),
    "infinity": (lambda t: with_logit(t, np.inf), "all", ["logits: 1 rows hold NaN or infinity"]),
    "a label outside": (
        column("label", lambda t: pa.array(np.full(len(t), 99))),
        "all",
        [
            "label: 99 (sample_id 0 of model 'original-0') lies outside 0 … 4; where columns of classes were dropped, give num_classes (--num-classes), the number of all classes"
        ],
    ),
    "labels that disagree": (
        column("label", lambda t: pa.array(np.where(np.arange(len(t)) == 4, 2, t["label"].to_numpy()))),
        "all",
        ["label: sample_id 4 is 2 in original model 'original-0', and 4 in original model"],
    ),
    "duplicated ids": (
        lambda t: pa.concat_tables([t, t.slice(0, 5)]),
        "all",
        ["sample_id: 5 rows are duplicates, the first sample_id 0 of model 'original-0'; give each"],
    ),
    "a model that lacks samples": (
        lambda t: t.slice(1),
        "all",
        ["sample_id: 1 models lack samples that others have, the first is model 'original-0' with 59 of 60"],
    ),
    "split by row": (
        column("fold", lambda t: pa.array(np.resize(["train", "validation", "test"], len(t)))),
        "all",
        ["fold: original model 'original-0' is in folds test, train, validation; split by model, never by row"],
    ),
    "nulls": (
        column("label", lambda t: pa.array([None] * len(t), pa.int64())),
        "all",
        ["label: 3360 rows are null"],
    ),
    "text for labels": (
        column("label", lambda t: t["label"].cast(pa.string())),
        "all",
        ["label: type string is not allowed; give int64"],
    ),
    "logits in columns of their own": (
        lambda t: t.drop_columns(["logits"]).append_column("logit_0", pa.array(np.zeros(len(t)))),
        "all",
        ["logits: the column is missing"],
    ),
    "one class": (
        column("logits", lambda t: pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(len(t), np.float32)), 1)),
        "all",
        ["logits: 1 classes; at least 2 are needed"],
    ),
    "no rows": (lambda t: t.slice(0, 0), "all", ["outputs: no rows"]),
    "a misspelt attack": (lambda t: t, "u_lria", ["attacks: 'u_lria' is not known, did you mean 'u_lira'? known are"]),
    "no attack": (lambda t: t, "", ["attacks: none was given; known are xgboost"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_missing_is_said_before_anything_starts(
    outputs: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it, attacks, said = BROKEN[case]
    broken = tmp_path / "broken.parquet"
    pq.write_table(break_it(pq.read_table(outputs)), broken)
    code, out, err = run(capsys, str(broken), "--attacks", attacks, "--output", str(tmp_path / "out"))
    assert code == 2
    lines = err.strip().splitlines()
    assert len(lines) == len(said), err
    for line, words in zip(lines, said, strict=True):
        assert line.startswith(f"audit: {words}"), err
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_files_that_do_not_fit_each_other_are_named(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(outputs)
    wide = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(len(table) * 7, np.float32)), 7)
    pq.write_table(table.set_column(7, "logits", wide), tmp_path / "wide.parquet")
    code, _, err = run(capsys, str(tmp_path), "--output", str(tmp_path / "out"))
    assert code == 2
    assert "logits: widths [5, 7] in one audit" in err
    code, _, err = run(capsys, str(outputs), str(outputs), "--output", str(tmp_path / "out"))
    assert code == 2
    assert "rows are duplicates" in err


def test_other_mistakes(tmp_path: Path, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn, empty, damaged = (tmp_path / f"{name}.parquet" for name in ("torn", "empty", "damaged"))
    hollow = tmp_path / "hollow"
    hollow.mkdir()
    torn.write_bytes(outputs.read_bytes()[:500])
    empty.touch()
    content = bytearray(outputs.read_bytes())
    content[4:400] = b"\xff" * 396
    damaged.write_bytes(content)
    for arguments, words in (
        (["nowhere.parquet"], "no such file"),
        ([str(torn)], f"{torn}: cannot be read as Parquet"),
        ([str(empty)], f"{empty}: cannot be read as Parquet"),
        ([str(damaged)], f"{damaged}: cannot be read as Parquet"),
        ([], "--mapping"),
        (["--mapping", str(tmp_path / "none.yaml")], "no such file"),
        (["--mapping", str(tmp_path)], f"--mapping: {str(tmp_path)!r}: is a folder; give a YAML file"),
        ([str(tmp_path / "original-0.npy")], "not a Parquet file; give --mapping FILE, a YAML file"),
        ([str(hollow)], f"outputs: {hollow}: the folder holds no .parquet files"),
        ([str(outputs), "--num-classes", "4"], "lies outside 0 … 3; num_classes (--num-classes) is 4; give 5 or more"),
        ([str(outputs), "--attacks", "xgbost"], "did you mean 'xgboost'?"),
        ([str(outputs), "--set", "rmia"], "give ATTACK.OPTION=VALUE"),
        ([str(outputs), "--set", "rmai.gamma=2"], "'rmai' is no attack"),
        ([str(outputs), "--set", "rmia.gama=2"], "rmia has no such option; it has a, gamma, mode, references"),
        ([str(outputs), "--set", "rmia.gamma=0"], "rmia.gamma: 0: not allowed; allowed: 1e-06 to 1e+06"),
        ([str(outputs), "--population", "nowhere.parquet"], "no such file"),
        ([str(outputs), "s3://bucket/x.parquet"], "mixed"),
    ):
        code, _, err = run(capsys, *arguments, "--output", str(tmp_path / "out"))
        assert code == 2, arguments
        assert words in err, err
        assert len(err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", ["rmia,,gap", "rmia,", ","])
def test_an_empty_name_of_an_attack_is_refused(names: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["audit", "outputs.parquet", "--attacks", names])
    assert f"--attacks: {names!r} is not allowed, a name is empty; give names as a,b" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models": "all"}, "models: a list of models is needed"),
        ({"model": []}, "mapping.model: unknown key; allowed are models, labels, sample_ids, classes"),
        ({"labels": "no.npy"}, "models.0.labels: {tmp}/no.npy does not exist"),
        ({"labels": "short.npy"}, "models.0.logits: shape (3, 2) does not fit 3 sample ids and 2 labels"),
        ({"models": [{"model_id": "a", "fold": "test", "logits": "l.npy"}]}, "models.0.role: missing"),
        ({"models": [{"model_id": "a", "role": "original", "fold": "test", "logits": "torn.npy"}]}, "models.0.logits"),
        ({"models": [{"model_id": "a", "role": "original", "fold": "test", "logits": "text.csv"}]}, "models.0.logits"),
        ({}, "audit: role: 0 retrained models in fold test"),
    ],
)
def test_mistakes_in_a_mapping_are_one_line_each(
    tmp_path: Path, change: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "l.npy", np.zeros((3, 2)))
    np.save(tmp_path / "y.npy", np.zeros(3))
    np.save(tmp_path / "short.npy", np.zeros(2))
    (tmp_path / "torn.npy").write_bytes((tmp_path / "l.npy").read_bytes()[:90])
    (tmp_path / "text.csv").write_text("a,b\n1,2\nthree,4\n")
    mapping = {
        "models": [{"model_id": "a", "role": "original", "fold": "test", "logits": "l.npy"}],
        "labels": "y.npy",
        **change,
    }
    path = tmp_path / "mapping.yaml"
    path.write_text(yaml.safe_dump(mapping))
    code, _, err = run(capsys, "--mapping", str(path), "--attacks", "lira", "--output", str(tmp_path / "out"))
    assert code == 2
    assert words.format(tmp=tmp_path) in err
    assert "Traceback" not in err
