"""Every measure of each attack, distances, and the samples that stand out: what the page keeps
folded away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attack.metrics.row import metric_name

from . import words
from .rows import Report, ResultRow

SAMPLES = 8
MOST_ROWS = 30  # whose samples are named; `results.json` has those of all
SAMPLES_NOTE = (
    "Sample ids, most telling first; under each the AUC over models on that sample alone, or its distance. An AUC tells the more the "
    "further it lies from 0.5. Above it (↑) the attack scores the sample higher than on retrained models, as it does what was trained on. "
    "Below it (↓) the sample stands out by too low a score."
)
MEASURES = (
    ("auc", "AUC"),
    ("auc_minus_retrain", "AUC − Retrain's"),
    ("tpr_at_fpr_0.01", "TPR at 1 % FPR"),
    ("tpr_at_fpr_0.001", "at 0.1 %"),
    ("tpr_at_fpr_0.0001", "at 0.01 %"),
    ("balanced_accuracy", "Balanced accuracy"),
    ("precision", "Precision"),
    ("recall", "Recall"),
    ("f1", "F1"),
)
DISTANCES = (
    ("klom/mean", "KLoM, mean"),
    ("klom/p95", "KLoM, 95th percentile"),
    ("klom/gap_left", "KLoM, gap left"),
    ("forgetting_quality/score", "Forgetting quality, mean score"),
    ("forgetting_quality/gap_left", "Forgetting quality, gap left"),
    ("forgetting_quality/epsilon_median", "Median ε"),
    ("forgetting_quality/epsilon_infinite", "Share of ε = ∞"),
    ("ks_log_entropy", "KS of log-entropy"),
)


@dataclass(frozen=True)
class Details:
    """A table that is folded away: its title, a sentence about it, its head, and rows of (value,
    interval) after the row's label.

    Or, with `parts` in place of rows, several of them: a sweep of fifty rows does not become fifty
    headings.
    """

    title: str
    note: str
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    parts: tuple[Details, ...] = ()


def details(report: Report) -> list[Details]:
    """Returns the tables that these results have something to put in."""
    found = []
    for auc in report.auc_names:
        name = report.attack_of(auc)
        found.append(
            _table(
                report,
                f"{words.attack_name(name)}: every measure",
                "Precision, recall and F1 are at the threshold that was best on validation models. Retrain's difference is paired: both were measured against the same retrained models.",
                [(metric_name(name, metric), label) for metric, label in MEASURES],
            )
        )
    found.append(
        _table(
            report,
            "Distances to retrained models, sample by sample",
            "KLoM is 0 and the mean score of forgetting quality 1 where nothing is left; with few models even Retrain's own are far from that, so read them beside it. The gap left is 0 by chance and 1 as before unlearning; intervals come from relabelling models. Neither knows how well the rest is kept: the mean score is not multiplied by accuracies.",
            list(DISTANCES),
        )
    )
    named = [row for row in report.rows if row.done and row.row.worst_samples]
    shown = report.select(named, MOST_ROWS)
    note = SAMPLES_NOTE if len(shown) == len(named) else f"{SAMPLES_NOTE} {len(shown)} of {len(named)} rows are shown."
    parts = (_samples(row, report.environment.get("sample_ids") or {}) for row in shown)
    found.append(Details("Samples that stand out", note, parts=tuple(part for part in parts if part.rows)))
    return [table for table in found if table.rows or table.parts]


def _table(report: Report, title: str, note: str, columns: list[tuple[str, str]]) -> Details:
    known = [(name, label) for name, label in columns if any(row.value(name) is not None for row in report.rows)]
    if len(known) < 2:  # an AUC alone stands in the table of results
        return Details(title, note)
    rows = [
        (
            row.label,
            tuple(
                (words.number(row.value(name), "fraction"), words.interval(row.bounds(name), "fraction"))
                for name, _ in known
            ),
        )
        for row in report.rows
        if any(row.value(name) is not None for name, _ in known)
    ]
    return Details(title, note, tuple(label for _, label in known), tuple(rows))


def _samples(row: ResultRow, ids: Mapping[str, str]) -> Details:
    """The samples by which a row's models are told from retrained ones best, by id: the source's
    own, or the row number."""
    lines = []
    for name, listed in row.row.worst_samples.items():
        cells = []
        for sample in list(listed)[:SAMPLES]:
            value = sample.get("auc", sample.get("value"))
            arrow = ""
            if value is not None and "auc" in sample and value != words.CHANCE:
                arrow = " ↑" if value > words.CHANCE else " ↓"
            number = str(sample.get("sample_id"))
            cells.append((ids.get(number, number), "∞" if value is None else f"{value:.3g}{arrow}"))
        if cells:
            cells += [("", "")] * (SAMPLES - len(cells))
            lines.append((DISTANCE_NAMES.get(name) or words.attack_name(name), tuple(cells)))
    return Details(row.label, "", tuple(f"{rank}." for rank in range(1, SAMPLES + 1)), tuple(lines))


DISTANCE_NAMES = {"klom": "KLoM", "forgetting_quality": "Forgetting quality ε"}
