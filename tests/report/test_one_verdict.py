"""What results, page, terminal and tables say of a row is one and the same."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

from attack.audit.verdicts import judge_rows
from attack.metrics.measure import Measure
from attack.metrics.row import Row
from attack.metrics.verdict import TITLES
from orchestrator.experiments.reproduce.claims import HOLDS, chance
from orchestrator.report import terminal_table
from orchestrator.report.rows import Report
from orchestrator.report.tables import render

from . import build
from .test_page import page_of

SHIPPED = Path(__file__).parents[2] / "docs" / "results"
BEFORE = {"auc": 0.693}, {"auc": [0.659, 0.724]}
CASES: dict[str, tuple[dict[str, float], dict[str, list[float]], int, str]] = {
    "wide": ({"auc": 0.55}, {"auc": [0.21, 0.88]}, 5, "undecided"),
    "as before": ({"auc": 0.6}, {"auc": [0.499, 0.6931]}, 5, "undecided"),
    "two models": ({"auc": 0.9}, {"auc": [0.8, 0.95]}, 2, "undecided"),
    "narrow": ({"auc": 0.53}, {"auc": [0.457, 0.601]}, 5, "forgot"),
    "low": ({"auc": 0.398}, {"auc": [0.343, 0.449]}, 5, "over-unlearned"),
    "high": ({"auc": 0.611}, {"auc": [0.577, 0.646]}, 5, "remembers"),
    "one open": ({"auc": 0.5, "rmia/auc": 0.5}, {"auc": [0.45, 0.55], "rmia/auc": [0.3, 0.7]}, 5, "undecided"),
    "sharp": (
        {"auc": 0.3, "entropy_threshold/auc": 0.8},
        {"auc": [0.2, 0.4], "entropy_threshold/auc": [0.7, 0.9]},
        5,
        "over-unlearned",
    ),
    "no direction": (
        {"auc": 0.5, "u_lira/auc": 0.8},
        {"auc": [0.45, 0.55], "u_lira/auc": [0.7, 0.9]},
        5,
        "told apart",
    ),
}


def shown_in_terminal(document: dict[str, Any]) -> list[str]:
    from rich.console import Console

    stream = io.StringIO()
    Console(width=200, file=stream).print(terminal_table(document))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("case", CASES)
def test_every_view_says_the_same(case: str, tmp_path: Path) -> None:
    metrics, intervals, models, word = CASES[case]
    rows: list[dict[str, Any]] = [
        {"method": method, "params": {}, "status": "done", "metrics": m, "ci": ci, "models": n, "retrained_models": n}
        for method, (m, ci), n in (("no_unlearn", BEFORE, 5), ("pgu", (metrics, intervals), models))
    ]
    found = judge_rows([Row.from_json(row) for row in rows])[1]
    assert found is not None
    assert found.word == word
    rows[1]["verdict"] = found.told()
    assert rows[1]["verdict"].startswith(TITLES[found.word])
    document = build.document(rows)
    folder = build.write(tmp_path, document)
    report = Report.load(folder)
    assert report.judgements[1].word == word
    assert list(csv.DictReader(io.StringIO(render(report, "csv"))))[1]["verdict"] == word
    assert render(report, "md").splitlines()[3].endswith(f"| {word} |")
    assert any(line.startswith("PGU") and line.rstrip().endswith(word) for line in shown_in_terminal(document))
    from orchestrator.report import write_report

    write_report(folder)
    cells = page_of(folder).rows[2]
    assert cells[-1][0].endswith(word)


@pytest.mark.parametrize("interval", [(0.457, 0.601), (0.4, 0.6), (0.39, 0.6), (0.21, 0.88), (0.36, 0.64)])
def test_a_claim_of_chance_takes_the_same_intervals_for_chance_as_a_verdict_does(interval: tuple[float, float]) -> None:
    [verdict] = judge_rows([Row("pgu", metrics={"auc": Measure.of(0.5, interval, models=5)})])
    assert verdict is not None
    assert (chance("AUC", Measure.of(0.5, interval)).word == HOLDS) == (verdict.word == "forgot")


@pytest.mark.parametrize("name", ["demo", "cifar10-mini"])
def test_what_is_shipped_says_what_the_rule_says(name: str) -> None:
    """Recomputed from the numbers of the shipped tables."""
    lines = (SHIPPED / name / "results.md").read_text(encoding="utf-8").splitlines()
    head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    rows, words = [], []
    for cells in body:
        low, high, auc = (float(found) for found in _figures(cells[head.index("AUC")]))
        method = {"No unlearning": "no_unlearn", "Retrain": "retrain"}.get(cells[0], cells[0])
        rows.append({"method": method, "status": "done", "metrics": {"auc": auc}, "ci": {"auc": [low, high]}})
        words.append(cells[-1])
    assert [verdict and verdict.word for verdict in judge_rows([Row.from_json(row) for row in rows])] == words


def _figures(cell: str) -> tuple[str, str, str]:
    auc, low, high = re.findall(r"\d\.\d+", cell)
    return low, high, auc
