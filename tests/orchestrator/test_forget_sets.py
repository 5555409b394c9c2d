"""Deletion requests from a recipe to the page: people by a column, samples by their own ids."""

from __future__ import annotations

import base64
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from orchestrator.commands.cli import main
from unlearn import load_dataset

CHECK = Path(__file__).parents[2] / "examples" / "check_forget_set.py"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as Parquet with a column of people and a column of names."""
    folder = tmp_path_factory.mktemp("photos")
    data = load_dataset("digits", limit={"train": 120, "test": 60})
    for part in ("train", "test"):
        images = getattr(data, part)
        encoded = []
        for pixels in images.images:
            buffer = io.BytesIO()
            Image.fromarray(pixels[..., 0]).save(buffer, "PNG")
            encoded.append(buffer.getvalue())
        rows = {
            "image": pa.array(encoded, pa.binary()),
            "label": images.labels,
            "user_id": [f"u{row % 12}" for row in range(len(encoded))],
            "photo": [f"p-{row:03d}" for row in range(len(encoded))],
        }
        pq.write_table(pa.table(rows), folder / f"{part}.parquet")
    return folder


@pytest.fixture
def asked(tiny: dict[str, Any], photos: Path) -> dict[str, Any]:
    tiny["dataset"] = {
        "source": "parquet",
        "train": str(photos / "train.parquet"),
        "test": str(photos / "test.parquet"),
        "id_column": "photo",
    }
    tiny["scenario"] = {"kind": "samples", "where": {"column": "user_id", "in": ["u2", "u5", "u7"]}}
    tiny["methods"] = [{"name": "eu_k", "k": 1, "epochs": 1}]
    tiny["training"]["epochs"] = 2
    return tiny


@pytest.mark.medium
def test_three_people_are_forgotten_and_named(
    asked: dict[str, Any], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked["attacks"] = [{"name": "lira"}]
    recipe, out = tmp_path / "people.yaml", tmp_path / "out"
    recipe.write_text(json.dumps(asked))
    assert main(["run", str(recipe), "--output", str(out), "--address", "inline", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    table = pq.read_table(photos / "train.parquet")
    wanted = {
        p for p, u in zip(*(table[c].to_pylist() for c in ("photo", "user_id")), strict=True) if u in ("u2", "u5", "u7")
    }
    with (out / "outputs" / "forget.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert {row["id"] for row in listed} == wanted
    check = [sys.executable, str(CHECK), str(photos / "train.parquet"), str(out), "photo", "user_id"]
    said = subprocess.run([*check, "u2", "u5", "u7"], capture_output=True, text=True, check=True)
    assert said.stdout == "30 samples of 3 in user_id: as forgotten\n"
    assert subprocess.run([*check, "u2", "u5"], capture_output=True, check=False).returncode == 1
    assert len(listed) == document["environment"]["split"]["forget"] == 30
    content = (out / "outputs" / "forget.csv").read_bytes()
    (out / "outputs" / "forget.csv").unlink()
    assert main(["report", str(out), "--json"]) == 0
    capsys.readouterr()
    assert (out / "outputs" / "forget.csv").read_bytes() == content, "a report written again has it too"
    labels = table["label"].to_pylist()
    for row in listed:
        assert row["id"] == f"p-{int(row['sample_id']):03d}"
        assert int(row["label"]) == labels[int(row["sample_id"])]
    forgotten = pq.read_table(out / "outputs" / "original.parquet")["sample_id"].unique().to_pylist()
    assert sorted(forgotten) == sorted(int(row["sample_id"]) for row in listed)
    page = (out / "report.html").read_text()
    assert "where column user_id" in page
    worst = [s["sample_id"] for row in document["rows"] for every in row["worst_samples"].values() for s in every]
    assert worst
    assert f"p-{worst[0]:03d}" in page, "samples that stand out are named by the source's ids"
    check_stories(out, photos, document["rows"])
    again = {**asked, "report": {"images": False}}
    recipe.write_text(json.dumps(again))
    assert (
        main(
            [
                "run",
                str(recipe),
                "--output",
                str(tmp_path / "private"),
                "--store",
                str(out / "store"),
                "--address",
                "inline",
                "--quiet",
            ]
        )
        == 0
    )
    assert "data:image/png" not in (tmp_path / "private" / "report.html").read_text()
    assert "data:image/png" not in (tmp_path / "private" / "curves.json").read_text()


def check_stories(out: Path, photos: Path, rows: list[dict[str, Any]]) -> None:
    """Pictures and confidences of `curves.json` against the source and the outputs table."""
    found = json.loads((out / "curves.json").read_text())["samples"]
    table = pq.read_table(photos / "train.parquet")
    place = next(i for i, row in enumerate(rows) if row["method"] == "retrain")
    outputs = pq.read_table(next((out / "outputs").glob("unlearned-retrain*.parquet")))
    for sample in found:
        pixels = Image.open(io.BytesIO(base64.b64decode(sample["image"].split(",")[1])))
        assert pixels.tobytes() == Image.open(io.BytesIO(table["image"][sample["sample_id"]].as_py())).tobytes()
        assert sample["class"] == str(table["label"][sample["sample_id"]].as_py())
        mine = outputs.filter(pc.equal(outputs["sample_id"], sample["sample_id"])).to_pylist()
        each = [np.exp(row["logits"][row["label"]]) / np.exp(row["logits"]).sum() for row in mine]
        assert sample["confidence"][place] == pytest.approx(np.mean(each), rel=1e-5)
        assert all(rows[row]["method"] == "eu_k" for row in sample["rows"])


@pytest.mark.medium
def test_requests_are_forgotten_one_after_another(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "requests.csv").write_text("id,order\np-000,1\np-001,1\np-050,2\n")
    asked["scenario"] = {"kind": "incremental", "requests": str(tmp_path / "requests.csv")}
    asked["methods"] = [{"name": "pgu_incremental", "gamma": 0.8, "lr": 0.02, "epochs": 2, "early_stop": None}]
    asked["shadows"] = {"originals": 2, "retrained": 0, "split": [0, 0, 2]}
    asked["attacks"] = []
    recipe, out = tmp_path / "requests.yaml", tmp_path / "out"
    recipe.write_text(json.dumps(asked))
    assert main(["run", str(recipe), "--output", str(out), "--address", "inline", "--json"]) == 0
    capsys.readouterr()
    steps = json.loads((out / "curves.json").read_text())["incremental"][0]["steps"]
    assert [step["forgotten"] for step in steps] == [0, 2, 3]
    assert [step["per_class"] for step in steps] == [0, 0.2, 0.3]
    asked["methods"][0]["step"] = 1
    recipe.write_text(json.dumps(asked))
    assert main(["plan", str(recipe)]) == 2
    assert "scenario.requests sets the steps: leave it out" in capsys.readouterr().err


def test_plan_lists_duplicates_before_anything_runs(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked["scenario"] = {"kind": "samples", "duplicates_of": ["p-003"]}
    recipe = tmp_path / "copies.yaml"
    recipe.write_text(json.dumps(asked))
    assert main(["plan", str(recipe)]) == 0
    assert "1 images have" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ({"ids": ["p-999"]}, "scenario.ids: ['p-999']: 1 of 1 ids are not in the training data: p-999"),
        ({"where": {"column": "user", "in": ["u1"]}}, "has no column 'user'; it has image, label, user_id, photo"),
        ({"where": {"column": "user_id", "in": ["u99"]}}, "has no u99; did you mean 'u9'?"),
        ({"fraction": 2}, "scenario.fraction: 2: not allowed; allowed: a number above 0 and below 1"),
        ({"ids": [1.5]}, "scenario.ids"),
    ],
)
def test_a_bad_request_is_one_line(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], scenario: dict[str, Any], message: str
) -> None:
    asked["scenario"] = {"kind": "samples", **scenario}
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(json.dumps(asked))
    assert main(["plan", str(recipe)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
