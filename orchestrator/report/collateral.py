"""Who else was hurt: what became of samples that nobody asked to forget, in words and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attack.metrics.harm import Difference, Harm

from . import words
from .details import Details
from .rows import Report, ResultRow

MOST_SAMPLES, MOST_GROUPS, MOST_ROWS = 20, 20, 30  # on the page; `results.json` has more
NOTE = (
    "A threshold on the confidence tells retained images from unseen ones: an AUC of 0.5 is guessing. A retained image "
    "became easier to find where it is clearly more exposed than under retrained models and than before unlearning."
)
EXPOSURE_NOTE = (
    "Exposure is by how many standard deviations the logit-scaled confidence lies above that of unseen images, under the same model. "
    "Intervals are of the difference to retrained models, and hold for all samples that were looked at together."
)
ERROR_NOTE = (
    "Errors in percent. Intervals are of the difference to retrained models, for all groups of a kind together."
)


def sentences(report: Report) -> list[str]:
    """Returns one sentence for each row that was looked at; rows that hurt nobody share one."""
    looked = [(row, row.row.harm) for row in report.rows if row.row.harm is not None and not row.baseline]
    found = []
    for row, harm in looked:
        parts = [_found(harm, report.environment.get("sample_ids") or {}), *_groups(harm)]
        if told := [part for part in parts if part]:
            found.append(f"{row.label}: {'; '.join(told)}.")
    quiet = len(looked) - len(found)
    if quiet:
        who = "one method" if quiet == 1 else f"{quiet} methods"
        who = f"{who} of {len(looked)}" if found else "no method" if quiet == 0 else "any method"
        count = words.count(looked[0][1].retained, "retained sample")
        found.append(f"No one was found to be easier to find under {who}, of {count} looked at.")
    return found


def _found(harm: Harm, ids: Mapping[str, str]) -> str:
    if not harm.easier:
        return ""
    shown = [words.clean(ids.get(each.what, each.what)) for each in harm.samples[:3]]
    more = ", …" if harm.easier > len(shown) else ""
    return (
        f"{harm.easier:,} of {words.count(harm.retained, 'retained sample')} became easier to find "
        f"({', '.join(shown)}{more})"
    )


def _groups(harm: Harm) -> list[str]:
    found = []
    for kind, listed in harm.exposure.items():
        clear = [words.clean(each.what) for each in listed if each.clear]
        if clear:
            more = f" and {len(clear) - 3} more" if len(clear) > 3 else ""
            found.append(f"more exposed as a group: {words.clean(kind)} {', '.join(clear[:3])}{more}")
    for kind, listed in harm.errors.items():
        worse = [each for each in listed if each.low is not None and each.low > 0.0]
        if worse:
            shown = ", ".join(f"{words.clean(each.what)} by {each.difference:.1f} points" for each in worse[:3])
            found.append(f"more errors than Retrain on {words.clean(kind)} {shown}")
    return found


def tables(report: Report) -> list[Details]:
    """Returns the tables of the section, each folded away."""
    looked = [row for row in report.rows if row.done and row.row.harm is not None]
    if not looked:
        return []
    shown = report.select(looked, MOST_ROWS)
    found = [_overview(looked)]
    parts = [part for row in shown if (part := _samples(row, report.environment.get("sample_ids") or {})).rows]
    if parts:
        found.append(Details("Samples that became easier to find", EXPOSURE_NOTE, parts=tuple(parts)))
    for title, note, digits, field in (
        ("Exposure by group", EXPOSURE_NOTE, 2, "exposure"),
        ("Errors on retained samples by group", ERROR_NOTE, 1, "errors"),
        ("Errors on unseen samples by group", ERROR_NOTE, 1, "errors_unseen"),
    ):
        parts = [
            _table(f"{row.label}: {words.clean(kind)}", "", listed[:MOST_GROUPS], digits)
            for row in shown
            if row.row.harm is not None and not row.baseline
            for kind, listed in _of(row.row.harm, field).items()
        ]
        if parts:
            found.append(Details(title, note, parts=tuple(parts)))
    return found


def _of(harm: Harm, field: str) -> Mapping[str, Sequence[Difference]]:
    return {"exposure": harm.exposure, "errors": harm.errors, "errors_unseen": harm.errors_unseen}[field]


def _overview(rows: Sequence[ResultRow]) -> Details:
    head = (
        "AUC on retained",
        "less Retrain's",
        "Became easier to find",
        "KLoM retained, 95th pct",
        "KLoM unseen, 95th pct",
    )
    lines = []
    for row in rows:
        cells = [(row.row["retained_auc"].value, row.row["retained_auc"].interval, "fraction")]
        apart = row.row["retained_auc_minus_retrain"]
        cells.append((apart.value, apart.interval, "fraction"))
        cells.append((row.value("easier_to_find"), None, "count"))
        cells += [(row.value(name), None, "fraction") for name in ("klom/retain_p95", "klom/test_p95")]
        lines.append((row.label, tuple((words.number(v, kind), words.interval(b, kind)) for v, b, kind in cells)))
    return Details("Retained and unseen samples, method by method", NOTE, head, tuple(lines))


def _samples(row: ResultRow, ids: Mapping[str, str]) -> Details:
    harm = row.row.harm
    return _table(row.label, "", () if harm is None else harm.samples[:MOST_SAMPLES], 2, ids)


def _table(
    title: str, note: str, listed: Sequence[Difference], digits: int, ids: Mapping[str, str] | None = None
) -> Details:
    """Returns a table of things beside Retrain's and those before unlearning."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    lines = []
    for each in listed:
        bounds = "" if each.low is None or each.high is None else f"[{number(each.low)}, {number(each.high)}]"
        label = words.clean((ids or {}).get(each.what, each.what))
        cells = ((number(each.value), ""), (number(each.retrain), ""), (number(each.before), ""))
        lines.append((label, (*cells, (number(each.difference), bounds))))
    return Details(title, note, ("after", "Retrain", "before", "after − Retrain"), tuple(lines))
