"""Judgements, marks, selections and numbers."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, get_args

import pytest

from attack.metrics.verdict import Verdict, VerdictWord
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


def judged_report(*rows: tuple[str, Verdict]) -> Report:
    """Returns a report of rows given as (method, verdict)."""
    plain = {"params": {}, "status": "done", "metrics": {"auc": 0.5}, "ci": {"auc": [0.45, 0.55]}, "models": 5}
    return Report(build.document([build.judged({**plain, "method": m}, found) for m, found in rows]))


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("forgot", "forgot"),
        ("remembers", "remembers"),
        ("over_unlearned", "over-unlearned"),
        ("damaged", "damaged"),
        ("undecided", "undecided"),
    ],
)
def test_the_word_is_that_of_the_results(word: VerdictWord, shown: str) -> None:
    judgement = judged_report(("pgu", build.verdict(word, "Because", u_lira=(0.6, 0.4)))).judgements[0]
    assert judgement.word == shown
    assert judgement.sentence.startswith("Because. The strongest attack, U-LiRA, has AUC 0.600")
    assert shown in words.VERDICTS


def test_results_of_an_older_version_are_not_judged_by_another_rule() -> None:
    judgement = report_of(BEFORE, ("pgu", {"auc": 0.5}, {"auc": [0.45, 0.55]})).judgements[1]
    assert judgement.word == "undecided"
    assert "not judged by this version" in judgement.sentence


def test_too_few_models_are_told_once() -> None:
    few = replace(build.verdict("undecided", "2 independent models on a side are too few", xgboost=(0.6, 0.4)), few=2)
    report = judged_report(("no_unlearn", build.verdict("remembers", xgboost=(0.7, 1.0))), ("pgu", few), ("eu_k", few))
    assert report.few == 2
    assert summary.headline(report).startswith("Too few models for any verdict: 2 independent models on a side.")
    assert not any("too few" in sentence for card in summary.cards(report) for sentence in card.sentences)
    known = judged_report(("pgu", few), ("eu_k", build.verdict("remembers", xgboost=(0.7, 1.0))))
    assert known.few is None
    assert any("too few" in sentence for card in summary.cards(known) for sentence in card.sentences)


def test_the_headline_names_the_strongest_attack_whatever_the_word() -> None:
    """An attack at 0.99 does not hide behind a graver word that rests on another attack."""
    mild = build.verdict("over_unlearned", xgboost=(0.458, -0.2), u_lira=(0.99, 1.2))
    text = summary.headline(judged_report(("retrain", build.verdict("forgot")), ("pgu", mild)))
    assert "The strongest attack is U-LiRA: AUC 0.990 on PGU" in text


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
    blind = build.verdict("undecided", "No attack tells anything", xgboost=(0.51, None))
    report = judged_report(("no_unlearn", blind), ("retrain", build.verdict("forgot")), ("pgu", blind))
    assert report.powerless
    assert any(attention and "nothing can be decided" in text for attention, text in summary.yardsticks(report))
    mixed = build.verdict("remembers", xgboost=(0.51, None), lira=(0.9, 1.0))
    found = summary.yardsticks(judged_report(("no_unlearn", mixed), ("retrain", build.verdict("forgot"))))
    assert (True, "XGBoost sees nothing even before unlearning, and so decides nothing.") in found


def test_a_crooked_yardstick_is_pointed_out_first() -> None:
    crooked = build.verdict("undecided", "rmia tells Retrain's models from other retrained ones", rmia=(0.6, 0.4))
    before = build.verdict("remembers", rmia=(0.9, 1.0))
    report = judged_report(("no_unlearn", before), ("retrain", crooked), ("pgu", build.verdict("undecided")))
    attention, text = summary.yardsticks(report)[0]
    assert attention
    assert "crooked yardstick" in text
    assert "tells Retrain's models" in text


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
        ("pgu", {"auc": 0.5, "error_test": 15.0}, {}),
        ("pgu", {"auc": 0.53, "error_test": 9.0}, {}),
        ("pgu", {"auc": 0.6, "error_test": 7.0}, {}),
    )
    words_of = ("remembers", "forgot", "forgot", "remembers")
    rows = [build.judged(r, build.verdict(w)) for r, w in zip(report.results["rows"], words_of, strict=True)]  # type: ignore[arg-type]
    report = Report(build.document(rows))
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
    counted = "Of 6 unlearning settings, 2 forgot, 2 still remember the forget set, 1 over-unlearned and 1 failed."
    assert summary.headline(report).startswith(counted)


@pytest.mark.parametrize(("word", "n"), list(itertools.product([*get_args(VerdictWord), "failed"], [1, 3])))
def test_the_headline_is_a_sentence_whatever_came_out(word: str, n: int) -> None:
    rows = []
    for i in range(n):
        plain = {"method": "pgu", "params": {"gamma": 0.9 + i / 100}, "metrics": {"auc": 0.5}, "ci": {}}
        if word == "failed":
            rows.append({**plain, "status": "failed"})
        else:
            rows.append(build.judged({**plain, "status": "done"}, build.verdict(word)))  # type: ignore[arg-type]
    text = summary.headline(Report(build.document(rows)))
    assert text.endswith(".")
    assert "{" not in text
    assert text.startswith("PGU γ=0.9 " if n == 1 else "All 3 unlearning settings ")


def test_notes_that_differ_in_numbers_are_told_once() -> None:
    found = dict(summary.remarks(Report(build.sweep()[0])))
    assert found["PGU γ=0.995"] == "the early stop was not reached in 30 epochs (and 2 models more like it)"
    assert found["run"].startswith("worker 3 was lost")


def test_the_page_tells_the_notes_on_the_split() -> None:
    document = build.sweep()[0]
    document["environment"]["split"]["notes"] = ["every sample of class 3 is forgotten"]
    assert ("run", "every sample of class 3 is forgotten") in summary.remarks(Report(document))
