"""What results, page, terminal and tables say of a row is one and the same."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from attack.metrics.verdict import TITLES, VerdictWord
from orchestrator.report.rows import Report
from orchestrator.report.show import terminal_table
from orchestrator.report.tables import render

from . import build
from .test_page import page_of

WORDS: dict[VerdictWord, str] = {
    "forgot": "forgot",
    "remembers": "remembers",
    "over_unlearned": "over-unlearned",
    "damaged": "damaged",
    "undecided": "undecided",
}


def shown_in_terminal(document: dict[str, Any]) -> list[str]:
    from rich.console import Console

    stream = io.StringIO()
    Console(width=200, file=stream).print(terminal_table(document))
    return stream.getvalue().splitlines()


@pytest.mark.medium
@pytest.mark.parametrize("code", WORDS)
def test_every_view_says_the_same(code: VerdictWord, tmp_path: Path) -> None:
    word = WORDS[code]
    plain: dict[str, Any] = {"params": {}, "status": "done", "metrics": {"auc": 0.6}, "ci": {"auc": [0.55, 0.65]}}
    before = build.verdict("remembers", xgboost=(0.7, 1.0))
    found = build.verdict(code, xgboost=(0.6, 0.5))
    rows = [build.judged({**plain, "method": m, "models": 5}, v) for m, v in (("no_unlearn", before), ("pgu", found))]
    assert rows[1]["verdict"].startswith(TITLES[found.word])
    assert rows[1]["metrics"]["verdict_word"] == code
    assert rows[1]["metrics"]["leak_left"] == 0.5
    document = build.document(rows)
    folder = build.write(tmp_path, document)
    report = Report.load(folder)
    assert report.judgements[1].word == word
    assert list(csv.DictReader(io.StringIO(render(report, "csv"))))[1]["verdict"] == word
    (line,) = [line for line in render(report, "md").splitlines() if line.startswith("| PGU")]
    assert line.endswith(f"| {word} |")
    assert any(line.startswith("PGU") and line.rstrip().endswith(word) for line in shown_in_terminal(document))
    from orchestrator.report.write import write_report

    write_report(folder)
    cells = page_of(folder).rows[-1]
    assert cells[-1][0].endswith(word)
