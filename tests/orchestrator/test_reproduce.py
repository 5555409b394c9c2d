"""`orchestrator reproduce`, end to end on handwritten digits: experiments, tables, figures, page, verdicts, and again."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from orchestrator.commands.cli import main

SMALL = [
    "dataset={source: digits, limit: {train: 300, test: 100}}",
    "model={name: small_vgg, width: 0.0625}",
    "training={lr: 0.05, final_lr: 0.005, batch_size: 32, epochs: 3, augment: null}",
    "tracking.uri=null",
]
SHADOWS = ["scenario.per_class=5", "shadows.originals=5", "shadows.retrained=5", "shadows.split=[1, 1, 3]"]
STRESS = ["scenario.step=2", "scenario.steps=4", "methods.0.epochs=1", "methods.0.step=4", "methods.0.batch_size=20"]


def reproduce(folder: Path, *words: str, settings: list[str]) -> int:
    given = [text for setting in [*SMALL, *settings] for text in ("--set", setting)]
    return main(["reproduce", *words, "--output", str(folder), "--address", "inline", "--quiet", *given])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    attack = "attacks=[{name: xgboost, rounds: 5, max_depth: 2}]"
    assert reproduce(folder, "ablation-entropy", settings=[*SHADOWS, attack, "methods.0.epochs=2"]) == 0
    return folder


def test_a_page_with_table_figure_and_data(finished: Path) -> None:
    document = json.loads((finished / "reproduce.json").read_text())
    (item,) = document["items"]
    assert (document["size"], item["item"]) == ("mini", "ablation-entropy")
    assert [row[0] for row in item["rows"]] == [f"PGU entropy_weight={weight}" for weight in ("0.2", "0", "1")]
    rows = list(csv.DictReader((finished / "tables" / "ablation-entropy.csv").open()))
    assert len(rows) == 3
    for name in ("AUC", "Error test (%)"):
        assert float(rows[0][f"{name} low"]) <= float(rows[0][name]) <= float(rows[0][f"{name} high"])
    assert r"\toprule" in (finished / "tables" / "ablation-entropy.tex").read_text()
    page, text = (finished / "index.html").read_text(), (finished / "README.md").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", ""), "the page loads nothing from elsewhere"
    assert "## Ablation: entropy term" in text
    for picture in (finished / "figures").iterdir():
        assert picture.stat().st_size > 1000
    assert f"figures/{next((finished / 'figures').glob('*.png')).name}" in text
    assert (finished / "ablation-entropy" / "report.html").is_file(), "each experiment has its own folder"


def test_again_nothing_runs(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "reproduce.json").read_bytes()
    attack = "attacks=[{name: xgboost, rounds: 5, max_depth: 2}]"
    assert reproduce(finished, "ablation-entropy", settings=[*SHADOWS, attack, "methods.0.epochs=2"]) == 0
    results = json.loads((finished / "ablation-entropy" / "results.json").read_text())
    assert results["environment"]["work"]["units_executed"] == 0
    after = json.loads((finished / "reproduce.json").read_bytes())
    assert after["items"][0]["rows"] == json.loads(before)["items"][0]["rows"]
    assert "0 of 0 claims" in capsys.readouterr().out


@pytest.mark.medium
def test_stress_items_share_an_experiment_and_judge_their_claims(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(tmp_path, "figure5", "figure6", settings=STRESS) == 0
    items = {item["item"]: item for item in json.loads((tmp_path / "reproduce.json").read_text())["items"]}
    assert list(items) == ["figure5", "figure6"]
    words = {"holds", "does not hold", "not measurable at this size"}
    claims = [claim for item in items.values() for claim in item["claims"]]
    assert len(claims) == 4
    assert {claim["verdict"] for claim in claims} <= words
    assert all(claim["because"] for claim in claims)
    assert (tmp_path / "figures" / "figure5.svg").is_file()
    for claim in claims:
        page = (tmp_path / claim["page"]).read_text()
        assert claim["verdict"] in page
        assert f"]({claim['page']})" in (tmp_path / "README.md").read_text()
    assert "Figure 6" in capsys.readouterr().out


def test_items_run_one_by_one_share_a_page(finished: Path) -> None:
    """The page of a second item still holds the first, in the order of the paper."""
    attack = "attacks=[{name: xgboost, rounds: 5, max_depth: 2}]"
    settings = [*SHADOWS, attack, "methods.0.epochs=2", "methods.0.batch_size=20"]
    assert reproduce(finished, "ablation-criterion", settings=settings) == 0
    document = json.loads((finished / "reproduce.json").read_text())
    assert [item["item"] for item in document["items"]] == ["ablation-criterion", "ablation-entropy"]
    assert "## Ablation: entropy term" in (finished / "README.md").read_text()


def test_a_plan_counts_shared_work_once_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [*SHADOWS, "attacks=[{name: xgboost, rounds: 5, max_depth: 2}]"]
    words = ("figure1", "figure3", "table2", "--size", "small", "--plan-only", "--json")
    assert reproduce(tmp_path / "out", *words, settings=settings) == 0
    found = {item["name"]: item for item in json.loads(capsys.readouterr().out)["items"]}
    assert list(found) == ["table2", "figure1", "figure3"], "in the order of the paper, in which they run"
    assert found["table2"]["units"] > found["figure1"]["units"] > 0
    assert found["figure1"]["hours"] > 0
    assert found["figure1"]["shared"] >= 10, "the shadow models are shared"
    assert found["figure3"]["units"] == 0, "the same experiment under another name"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tabel1"], "did you mean 'table1'"),
        (["table1", "--set", "training.epoch=3"], "did you mean 'epochs'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_DATA", str(tmp_path))
    assert main(["reproduce", *words, "--output", str(tmp_path / "out"), "--address", "inline"]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
