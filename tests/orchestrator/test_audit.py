"""`orchestrator audit` on outputs that this project never trained: the full report, or exactly what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from attack import outputs_table
from orchestrator.cli import main

MODELS, SAMPLES, CLASSES = 14, 60, 5


def logits_of(generator: np.random.Generator, signal: float) -> np.ndarray:
    logits = generator.normal(size=(SAMPLES, CLASSES))
    logits[np.arange(SAMPLES), np.arange(SAMPLES) % CLASSES] += 1.0 + signal
    return logits


def fold_of(model: int) -> str:
    return "train" if model < 6 else "validation" if model < 8 else "test"


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Originals that know the forget set, retrained models that do not, one good method and one that does nothing."""
    generator = np.random.default_rng(101)
    tables = []
    ids, labels = np.arange(SAMPLES), np.arange(SAMPLES) % CLASSES
    for role, method, signal in (
        ("original", "", 2.0),
        ("retrained", "", 0.0),
        ("unlearned", "good", 0.0),
        ("unlearned", "idle", 2.0),
    ):
        for model in range(MODELS):
            name = f"{method or role}-{model}"
            tables.append(
                outputs_table(name, role, method, "{}", fold_of(model), ids, labels, logits_of(generator, signal))
            )
    path = tmp_path / "outputs.parquet"
    pq.write_table(pa.concat_tables(tables), path)
    return path


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["audit", *args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_full_report(outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    code, text, _ = run(capsys, str(outputs), "--attacks", "all", "--output", str(out), "--json")
    assert code == 0
    rows = {row["method"]: row for row in json.loads(text)["rows"]}
    assert rows["idle"]["ci"]["auc"][0] > 0.6
    assert rows["no_unlearn"]["ci"]["auc"][0] > 0.6
    assert rows["good"]["ci"]["auc"][0] < 0.5 < rows["good"]["ci"]["auc"][1]
    assert {"u_lira/auc", "rmia/auc", "lira/auc"} <= set(rows["good"]["metrics"])
    for name in ("results.json", "curves.json", "report.html", "tables/results.csv", "figures/roc.svg"):
        assert (out / name).is_file(), name
    code, text, _ = run(capsys, str(outputs), "--output", str(out))
    assert code == 0
    assert "remembers" in text


def test_numpy_logits_with_a_mapping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    np.save(tmp_path / "labels.npy", np.arange(SAMPLES) % CLASSES)
    models: list[dict[str, Any]] = []
    for role, signal in (("original", 2.0), ("retrained", 0.0)):
        for model in range(MODELS):
            np.save(tmp_path / f"{role}{model}.npy", logits_of(generator, signal))
            models.append(
                {"model_id": f"{role}{model}", "role": role, "fold": fold_of(model), "logits": f"{role}{model}.npy"}
            )
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(yaml.safe_dump({"labels": "labels.npy", "models": models}))
    code, text, _ = run(capsys, "--mapping", str(mapping), "--output", str(tmp_path / "out"), "--json")
    assert code == 0
    assert json.loads(text)["rows"][0]["metrics"]["auc"] > 0.7


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        ("no retrained", "retrained"),
        ("no validation", "validation"),
        ("nan", "NaN"),
        ("label", "label"),
        ("twice", "duplicates"),
        ("column", "fold"),
    ],
)
def test_what_is_missing_is_said_before_anything_starts(
    outputs: Path, tmp_path: Path, break_it: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.compute as pc

    table = pq.read_table(outputs)
    if break_it == "no retrained":
        table = table.filter(pc.not_equal(table["role"], "retrained"))
    elif break_it == "no validation":
        table = table.filter(pc.not_equal(table["fold"], "validation"))
    elif break_it == "nan":
        values = np.asarray(table["logits"].combine_chunks().flatten()).copy()
        values[7] = np.nan
        table = table.set_column(7, "logits", pa.FixedSizeListArray.from_arrays(pa.array(values), CLASSES))
    elif break_it == "label":
        table = table.set_column(6, "label", pa.array(np.full(len(table), 99)))
    elif break_it == "twice":
        table = pa.concat_tables([table, table.slice(0, 5)])
    else:
        table = table.drop_columns(["fold"])
    broken = tmp_path / "broken.parquet"
    pq.write_table(table, broken)
    code, out, err = run(capsys, str(broken), "--output", str(tmp_path / "out"))
    assert code == 2
    assert words.lower() in err.lower()
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_other_mistakes(tmp_path: Path, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(outputs.read_bytes()[:500])
    for arguments, words in (
        (["nowhere.parquet"], "no such file"),
        ([str(torn)], "Parquet"),
        ([], "--mapping"),
        (["--mapping", str(tmp_path / "none.yaml")], "no such file"),
        ([str(outputs), "--attacks", "xgbost"], "xgbost"),
    ):
        code, _, err = run(capsys, *arguments)
        assert code == 2, arguments
        assert words in err
