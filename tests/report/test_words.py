"""Judgements, marks, selections and numbers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from orchestrator.report import summary, words
from orchestrator.report.figures.histories import mean_while_all
from orchestrator.report.rows import Report

from . import build


def report_of(*cells: tuple[str, dict[str, Any], dict[str, Any]]) -> Report:
    """Returns a report of rows given as (method, metrics, ci)."""
    rows = [
        {"method": m, "params": {"i": i}, "metrics": metrics, "ci": ci, "status": "done", "models": 5}
        for i, (m, metrics, ci) in enumerate(cells)
    ]
    return Report(build.document(rows))


BEFORE = ("no_unlearn", {"auc": 0.7}, {"auc": [0.65, 0.75]})


@pytest.mark.parametrize(
    ("auc", "interval", "word"),
    [
        (0.7, [0.65, 0.75], "remembers"),
        (0.52, [0.48, 0.56], "forgot"),
        (0.52, [0.5, 0.56], "forgot"),
        (0.3, [0.2, 0.4], "over-unlearned"),
        (0.7, None, "undecided"),
        (None, None, "undecided"),
    ],
)
def test_the_word_follows_the_interval(auc: float | None, interval: list[float] | None, word: str) -> None:
    report = report_of(BEFORE, ("pgu", {"auc": auc}, {"auc": interval} if interval else {}))
    assert report.judgements[1].word == word


def test_one_attack_that_succeeds_breaks_the_claim() -> None:
    metrics, ci = {"auc": 0.5, "u_lira/auc": 0.6}, {"auc": [0.45, 0.55], "u_lira/auc": [0.56, 0.64]}
    judgement = report_of(BEFORE, ("pgu", metrics, ci)).judgements[1]
    assert judgement.word == "told apart"
    assert "U-LiRA" in judgement.sentence
    assert "0.600 [0.560, 0.640]" in judgement.sentence


@pytest.mark.parametrize(
    ("auc", "u_lira", "word"),
    [
        ([0.3, 0.4], [0.7, 0.8], "over-unlearned"),  # told apart by too much forgetting, as the other attack knows
        ([0.6, 0.7], [0.7, 0.8], "remembers"),
        ([0.45, 0.55], [0.3, 0.4], "undecided"),  # below chance, an attack fitted on the method's own models only errs
        ([0.45, 0.55], [0.7, 0.8], "told apart"),
        ([0.45, 0.55], [0.45, 0.55], "forgot"),
    ],
)
def test_an_attack_without_a_direction_does_not_say_which_way(auc: list[float], u_lira: list[float], word: str) -> None:
    metrics = {"auc": sum(auc) / 2, "u_lira/auc": sum(u_lira) / 2}
    assert report_of(BEFORE, ("pgu", metrics, {"auc": auc, "u_lira/auc": u_lira})).judgements[1].word == word


def test_details_hold_every_measure_and_the_worst_samples_by_id() -> None:
    from orchestrator.report.details import details

    report = report_of(
        BEFORE,
        (
            "pgu",
            {
                "auc": 0.5,
                "auc_minus_retrain": 0.02,
                "f1": 0.6,
                "tpr_at_fpr_0.01": None,
                "klom/mean": 1,
                "klom/p95": 2,
                "forgetting_quality/score": 0.3,
            },
            {"auc": [0.4, 0.6], "auc_minus_retrain": [-0.1, 0.1]},
        ),
    )
    report.results["rows"][1]["worst_samples"] = {
        "xgboost": [{"sample_id": 41, "auc": 0.9}, {"sample_id": 3, "auc": 0.11}, {"sample_id": 4, "auc": 0.5}],
        "klom": [{"sample_id": 7}],
    }
    measures, distances, samples = details(report)
    assert measures.title == "XGBoost: every measure"
    assert measures.head == ("AUC", "AUC − Retrain's", "F1")
    assert measures.rows[1][1][1] == ("0.020", "[-0.100, 0.100]")
    assert distances.head == ("KLoM, mean", "KLoM, 95th percentile", "Forgetting quality, mean score")
    assert "Below it (↓)" in samples.note
    assert samples.rows == ()
    [part] = samples.parts  # one for each row that has any
    assert part.title == report.rows[1].label
    assert part.rows[0][0] == "XGBoost"
    assert part.rows[0][1][0] == ("41", "0.9 ↑")
    assert part.rows[0][1][1:3] == (("3", "0.11 ↓"), ("4", "0.5"))
    assert part.rows[1][1][0] == ("7", "∞")


def test_an_attack_that_sees_nothing_before_unlearning_proves_nothing_after_it() -> None:
    report = report_of(
        ("no_unlearn", {"auc": 0.51}, {"auc": [0.45, 0.57]}),
        ("retrain", {"auc": 0.5}, {"auc": [0.45, 0.55]}),
        ("pgu", {"auc": 0.5}, {"auc": [0.45, 0.55]}),
        ("eu_k", {"auc": 0.8}, {"auc": [0.75, 0.85]}),
    )
    assert [judgement.word for judgement in report.judgements] == ["undecided", "forgot", "undecided", "remembers"]
    assert any(attention and "proves nothing" in text for attention, text in summary.yardsticks(report))


def test_a_crooked_yardstick_is_pointed_out() -> None:
    report = report_of(
        BEFORE, ("retrain", {"auc": 0.56}, {"auc": [0.52, 0.6]}), ("pgu", {"auc": 0.5}, {"auc": [0.45, 0.55]})
    )
    assert any(attention and "leaves 0.5 out" in text for attention, text in summary.yardsticks(report))


def test_marks_are_nearest_to_the_aim_and_reference_rows_stay_out() -> None:
    report = report_of(
        ("no_unlearn", {"auc": 0.5, "error_forget": 9.6}, {}),
        ("retrain", {"auc": 0.5, "error_forget": 9.6, "speedup_vs_retrain": 1.0}, {}),
        ("pgu", {"auc": 0.52, "error_forget": 30.0, "speedup_vs_retrain": 9.0}, {}),
        ("pgu", {"auc": 0.44, "error_forget": 9.0, "speedup_vs_retrain": None}, {}),
        ("eu_k", {"auc": 0.6, "error_forget": 4.0, "speedup_vs_retrain": 3.0}, {}),
    )
    assert report.marked == {(2, "auc"), (3, "error_forget"), (2, "speedup_vs_retrain")}


def test_labels_tell_rows_of_a_method_apart() -> None:
    results, curves = build.many(200)
    report = Report(results, curves)
    labels = [row.label for row in report.rows]
    assert len(set(labels)) == len(labels)
    assert labels[:2] == ["No unlearning", "Retrain"]
    assert labels[3] == "PGU γ=0.9975, lr=0.05"


@pytest.mark.parametrize(("limit", "per_method"), [(3, None), (8, 4), (8, 2), (30, None), (500, None)])
def test_a_selection_keeps_the_references_and_the_best(limit: int, per_method: int | None) -> None:
    report = Report(*build.many(200))
    shown = report.select(report.rows, limit, per_method)
    assert len(shown) <= limit
    assert [row.index for row in shown] == sorted(row.index for row in shown)
    assert {"no_unlearn", "retrain"} <= {row.method for row in shown}
    for method in ("pgu", "finetune") if limit > 3 else ():
        rows = [row for row in report.rows if row.method == method]
        assert report.best_of(rows) in shown
        assert per_method is None or sum(row.method == method for row in shown) <= per_method


def test_the_best_row_forgot_at_the_least_test_error() -> None:
    report = report_of(
        BEFORE,
        ("pgu", {"auc": 0.5, "error_test": 15.0}, {"auc": [0.45, 0.55]}),
        ("pgu", {"auc": 0.53, "error_test": 9.0}, {"auc": [0.48, 0.58]}),
        ("pgu", {"auc": 0.6, "error_test": 7.0}, {"auc": [0.55, 0.65]}),
    )
    best = report.best_of(report.rows[1:])
    assert best is not None
    assert best.index == 2


def test_nothing_measured_is_never_nought() -> None:
    for kind in ("fraction", "percent", "seconds", "times", "count", "flag"):
        assert words.number(None, kind) == "n/m"
    assert words.number(0.0, "percent") == "0.00"
    assert words.signed(-1.234, "percent") == "−1.23"
    assert words.signed(-0.0001, "fraction") == "0.000"


def test_the_mean_over_models_ends_where_the_first_model_ends() -> None:
    epochs, means = mean_while_all([{0: 1.0, 1: 0.5, 2: 0.1}, {0: 0.8, 1: 0.7}, {}])
    assert epochs == [0, 1]
    assert means == pytest.approx([0.9, 0.6])
    assert mean_while_all([]) == ([], [])


def test_the_headline_counts_every_row_once() -> None:
    report = Report(build.sweep()[0])
    assert (
        summary.headline(report)
        == "Of 6 unlearning settings, 2 forgot, 2 still remember the forget set, 1 over-unlearned and 1 failed."
    )


@pytest.mark.parametrize(
    ("word", "n"), list(itertools.product(["forgot", "remembers", "over-unlearned", "undecided", "failed"], [1, 3]))
)
def test_the_headline_is_a_sentence_whatever_came_out(word: str, n: int) -> None:
    intervals = {"forgot": [0.4, 0.6], "remembers": [0.6, 0.8], "told apart": [0.6, 0.8], "over-unlearned": [0.1, 0.3]}
    auc = "u_lira/auc" if word == "told apart" else "auc"
    rows = [
        {
            "method": "pgu",
            "params": {"gamma": 0.9 + i / 100},
            "status": "failed" if word == "failed" else "done",
            "metrics": {auc: 0.5},
            "ci": {auc: intervals[word]} if word in intervals else {},
        }
        for i in range(n)
    ]
    text = summary.headline(Report(build.document(rows)))
    assert text.endswith(".")
    assert "{" not in text
    assert text.startswith("PGU γ=0.9 " if n == 1 else "All 3 unlearning settings ")


def test_notes_that_differ_in_numbers_are_told_once() -> None:
    found = dict(summary.remarks(Report(build.sweep()[0])))
    assert found["PGU γ=0.995"] == "the early stop was not reached in 30 epochs (and 2 models more like it)"
    assert found["run"].startswith("worker 3 was lost")
