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
from orchestrator.commands.cli import main

MODELS, SAMPLES, CLASSES = 14, 60, 5


def logits_of(generator: np.random.Generator, signal: float) -> np.ndarray:
    logits = generator.normal(size=(SAMPLES, CLASSES))
    logits[np.arange(SAMPLES), np.arange(SAMPLES) % CLASSES] += 1.0 + signal
    return logits


def fold_of(model: int) -> str:
    return "train" if model < 6 else "validation" if model < 8 else "test"


def without(table: pa.Table, role: str, *folds: str) -> pa.Table:
    import pyarrow.compute as pc

    gone = pc.and_(pc.equal(table["role"], role), pc.is_in(table["fold"], value_set=pa.array(folds)))
    return table.filter(pc.invert(gone))


@pytest.fixture(name="outputs")
def audit_outputs(tmp_path: Path) -> Path:
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


@pytest.mark.medium
def test_the_full_report(outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    code, text, _ = run(capsys, str(outputs), "--attacks", "all", "--output", str(out), "--json")
    assert code == 0
    rows = {row["method"]: row for row in json.loads(text)["rows"]}
    assert rows["idle"]["ci"]["auc"][0] > 0.6
    assert rows["no_unlearn"]["ci"]["auc"][0] > 0.6
    assert rows["good"]["ci"]["auc"][0] < 0.5 < rows["good"]["ci"]["auc"][1]
    assert {"u_lira/auc", "rmia/auc", "lira/auc"} <= set(rows["good"]["metrics"])
    for name in ("results.json", "curves.json", "report.html", "tables/results.csv", "figures/auc.svg"):
        assert (out / name).is_file(), name
    code, text, _ = run(capsys, str(outputs), "--output", str(out))
    assert code == 0
    assert "remembers" in text


@pytest.mark.medium
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


@pytest.mark.medium
def test_disorder_and_what_was_left_out_are_told(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows in any order give the same numbers; attacks that the outputs cannot feed are named, with the reason."""
    table = without(pq.read_table(outputs), "unlearned", "train", "validation")
    mixed = tmp_path / "mixed.parquet"
    pq.write_table(table.take(pa.array(np.random.default_rng(0).permutation(len(table)))), mixed)
    pq.write_table(table, tmp_path / "ordered.parquet")
    documents = []
    for path in (mixed, tmp_path / "ordered.parquet"):
        code, text, _ = run(
            capsys, str(path), "--attacks", "lira,rmia", "--output", str(tmp_path / path.stem), "--json"
        )
        assert code == 0
        documents.append(json.loads(text))
    assert [row["metrics"] for row in documents[0]["rows"]] == [row["metrics"] for row in documents[1]["rows"]]
    assert any("not ascending" in note for note in documents[0]["environment"]["notes"])
    assert not any("not ascending" in note for note in documents[1]["environment"]["notes"])
    quick = ["--set", "xgboost.rounds=3", "--set", "xgboost.max_depth=2"]
    code, text, _ = run(capsys, str(mixed), "--attacks", "all", *quick, "--output", str(tmp_path / "all"), "--json")
    assert code == 0
    document = json.loads(text)
    assert "u_lira" not in [attack["name"] for attack in document["recipe"]["attacks"]]
    assert any(note.startswith("u_lira: left out: role: 0 unlearned") for note in document["environment"]["notes"])


@pytest.mark.medium
def test_a_method_that_did_nothing_and_constant_features_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(3)
    ids, labels = np.arange(SAMPLES), np.arange(SAMPLES) % CLASSES
    tables = []
    for model in range(MODELS):
        original, fold = logits_of(generator, 1.0), fold_of(model)
        tables += [
            outputs_table(f"o{model}", "original", "", "{}", fold, ids, labels, original),
            outputs_table(f"r{model}", "retrained", "", "{}", fold, ids, labels, logits_of(generator, 0.0)),
            outputs_table(f"o{model}", "unlearned", "nothing", "{}", fold, ids, labels, original),
            outputs_table(f"o{model}", "unlearned", "some", "{}", fold, ids, labels, logits_of(generator, 0.5)),
        ]
    path = tmp_path / "outputs.parquet"
    pq.write_table(pa.concat_tables(tables), path)
    code, text, _ = run(capsys, str(path), "--attacks", "lira", "--output", str(tmp_path / "a"), "--json")
    assert code == 0
    notes = {row["method"]: row["notes"] for row in json.loads(text)["rows"]}
    assert any("did nothing" in note for note in notes["nothing"])
    assert not any("did nothing" in note for note in notes["some"])
    flat = [
        outputs_table(f"m{model}", role, "", "{}", fold_of(model), ids, labels, np.zeros((SAMPLES, CLASSES)))
        for role in ("original", "retrained")
        for model in range(MODELS)
    ]
    pq.write_table(pa.concat_tables(flat), path)
    code, text, _ = run(capsys, str(path), "--attacks", "all", "--output", str(tmp_path / "b"), "--json")
    assert code == 0
    notes = json.loads(text)["environment"]["notes"]
    assert any(note.startswith("xgboost: every feature is constant") for note in notes)
    assert any(note.startswith("lira: the confidence is constant") for note in notes)
    assert any(note.startswith("loss_threshold: every score is the same") for note in notes)


@pytest.mark.medium
def test_population_samples_are_the_z_of_rmia(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(outputs)
    generator = np.random.default_rng(5)
    z = np.concatenate([logits_of(generator, 0.0) for _ in range(len(table) // SAMPLES)]).astype(np.float32)
    logits = pa.FixedSizeListArray.from_arrays(pa.array(z.ravel()), CLASSES)
    pq.write_table(table.set_column(7, "logits", logits), tmp_path / "z.parquet")
    found = []
    for more in ([], ["--population", str(tmp_path / "z.parquet")]):
        code, text, _ = run(
            capsys, str(outputs), "--attacks", "rmia", *more, "--output", str(tmp_path / "out"), "--json"
        )
        assert code == 0
        found.append(json.loads(text))
    noted = [any("no population samples" in note for note in document["environment"]["notes"]) for document in found]
    assert noted == [True, False]
    areas = [document["rows"][0]["metrics"]["rmia/auc"] for document in found]
    assert min(areas) > 0.6
    assert areas[0] != areas[1]


@pytest.mark.medium
@pytest.mark.parametrize("attacks", ["xgboost", "all"])
@pytest.mark.parametrize("width", [100, 160])
def test_the_terminal_shows_every_attack_within_its_width(
    outputs: Path, tmp_path: Path, attacks: str, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    from rich.console import Console

    from orchestrator.report.show import terminal_table

    quick = ["--set", "xgboost.rounds=3", "--set", "xgboost.max_depth=2"]
    code, text, _ = run(capsys, str(outputs), "--attacks", attacks, *quick, "--output", str(tmp_path / "out"), "--json")
    assert code == 0
    stream = io.StringIO()
    Console(width=width, file=stream).print(terminal_table(json.loads(text)))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    assert "n/m" not in lines[2]
    for label, word in (("No unlearning", "remembers"), ("idle", "remembers"), ("good", "forgot")):
        assert any(line.startswith(label) and line.rstrip().endswith(word) for line in lines), stream.getvalue()
    heads = " ".join(lines)
    for name in ("XGBoost", "LiRA", "U-LiRA", "RMIA", "Loss", "Entropy"):
        assert (name in heads) == (attacks == "all")


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(400)
def test_large_outputs_go_to_ray_by_themselves_from_s3(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server_module = pytest.importorskip("moto.server")
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="audits")
        client.upload_file(str(outputs), "audits", "mine/outputs.parquet")
        one = [f"--set=xgboost.{option}" for option in ("max_depth=3", "eta=0.3", "min_child_weight=1", "rounds=30")]
        documents = []
        on_ray = ["s3://audits/mine/*.parquet", "--distributed-rows=1000", "--scratch", str(tmp_path / "disk/spool")]
        for number, more in enumerate((on_ray, [str(outputs)])):
            out = tmp_path / f"out{number}"
            code, text, err = run(capsys, *more, *one, "--address", "local", "--output", str(out), "--json")
            assert code == 0, err
            documents.append(json.loads(text))
            assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == sorted(
                ["checksums.json", "curves.json", "figures", "report.html", "results.json", "tables"]
            )
        paths = [document["rows"][0]["attacks"]["xgboost"]["path"] for document in documents]
        assert paths == ["distributed", "in_process"]
        assert any("fitted and scored on Ray, 2 workers" in note for note in documents[0]["environment"]["notes"])
        for mine, theirs in zip(documents[0]["rows"], documents[1]["rows"], strict=True):
            if theirs["models"]:
                assert abs(mine["metrics"]["auc"] - theirs["metrics"]["auc"]) < 0.005
                assert mine["metrics"]["klom/p95"] == theirs["metrics"]["klom/p95"]
        assert list(tmp_path.glob(".audit-*")) == []
        assert list((tmp_path / "disk/spool").iterdir()) == [], "made on the node, and emptied"
        code, _, err = run(capsys, "s3://audits/yours/*.parquet", "--output", str(tmp_path / "none"))
        assert code == 2
        assert "no such file" in err
    finally:
        server.stop()
