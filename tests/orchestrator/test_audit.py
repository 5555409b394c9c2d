"""`orchestrator audit` on outputs that this project never trained: the full report, or exactly what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def with_logit(table: pa.Table, value: float) -> pa.Table:
    values = np.asarray(table["logits"].combine_chunks().flatten()).copy()
    values[7] = value
    return table.set_column(7, "logits", pa.FixedSizeListArray.from_arrays(pa.array(values), CLASSES))


def without(table: pa.Table, role: str, *folds: str) -> pa.Table:
    import pyarrow.compute as pc

    gone = pc.and_(pc.equal(table["role"], role), pc.is_in(table["fold"], value_set=pa.array(folds)))
    return table.filter(pc.invert(gone))


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
            "role: 0 retrained models in folds train and validation; lira needs at least 2",
            "role: 0 retrained models in folds train and validation; rmia needs at least 2",
            "role: 0 retrained models in folds train and validation; u_lira needs at least 2",
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
        ["label: 99 (sample_id 0 of model 'original-0') lies outside 0 … 4; in class removal say how many classes"],
    ),
    "labels that disagree": (
        column("label", lambda t: pa.array(np.where(np.arange(len(t)) == 4, 2, t["label"].to_numpy()))),
        "all",
        ["label: sample_id 4 has different labels in different rows"],
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
    "no attack": (lambda t: t, ",", ["attacks: none was given; known are xgboost"]),
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
        ([str(outputs), "--attacks", "xgbost"], "did you mean 'xgboost'?"),
        ([str(outputs), "--set", "rmia"], "give ATTACK.OPTION=VALUE"),
        ([str(outputs), "--set", "rmai.gamma=2"], "'rmai' is no attack"),
        ([str(outputs), "--set", "rmia.gama=2"], "rmia has no such option; it has a, gamma, mode, references"),
        ([str(outputs), "--set", "rmia.gamma=0"], "rmia.gamma: 0 is not allowed"),
        ([str(outputs), "--population", "nowhere.parquet"], "no such file"),
        ([str(outputs), "s3://bucket/x.parquet"], "mixed"),
    ):
        code, _, err = run(capsys, *arguments, "--output", str(tmp_path / "out"))
        assert code == 2, arguments
        assert words in err, err
        assert len(err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()


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


@pytest.mark.parametrize("attacks", ["xgboost", "all"])
@pytest.mark.parametrize("width", [100, 160])
def test_the_terminal_shows_every_attack_within_its_width(
    outputs: Path, tmp_path: Path, attacks: str, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    from rich.console import Console

    from orchestrator.report import terminal_table

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


@pytest.mark.slow
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
            assert sorted(path.name for path in out.iterdir()) == sorted(
                ["curves.json", "figures", "report.html", "results.json", "tables"]
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
