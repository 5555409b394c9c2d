"""Runs side by side: what differs in their recipes, and each row with its difference to the first
run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attack.metrics.measure import Measure

from ..base.text import varying_names
from ..base.values import Object, Record
from . import words
from .rows import Report, ResultRow, ResultsError
from .tables import FORMATS, csv_cell, escape_markdown, markdown_line, tex

ABSENT = "–"
VERDICT = words.Metric("verdict", "Verdict", "flag")
DIFFERENCE_NOTE = (
    "Differences are to the first run; their 95 % intervals take the runs as independent, so with shared models or images they are too wide "
    "rather than too narrow. Bold: the interval leaves 0 out."
)


@dataclass(frozen=True)
class Line:
    """One metric of one row in every run; None for a run that has no such row."""

    method: str
    title: str
    params: Object
    shown: str
    metric: words.Metric
    rows: tuple[ResultRow | None, ...]
    verdicts: tuple[str, ...]

    def difference(self, run: int) -> Measure | None:
        """Returns the metric in `run` minus that in the first run, None where either was not
        measured."""
        first, other = self.rows[0], self.rows[run]
        if first is None or other is None or self.metric.kind == "flag":
            return None
        apart = other.row[self.metric.name] - first.row[self.metric.name]
        return apart if apart.known else None


def compare_runs(dirs: Sequence[Path], format: str = "md") -> str:
    """Returns the comparison of the runs in `dirs` as one of `FORMATS`; CSV is in long form, one
    line for each run and value.

    **Raises:** `ValueError` for another format, no folder, or a folder without results.
    """
    if format not in FORMATS:
        raise ResultsError(f"format: {format!r}: unknown; allowed: {', '.join(FORMATS)}")
    reports = _loaded(dirs)
    names = run_names(dirs)
    renderers = {"csv": _csv, "md": _markdown, "latex": _latex}
    return renderers[format](names, recipe_differences(reports), list(lines(reports)))


def compare_document(dirs: Sequence[Path]) -> Record:
    """Returns the comparison as JSON data: the numbers of each run, null for a run that has no such
    row.

    **Raises:** `ValueError` for no folder, or a folder without results.
    """
    reports = _loaded(dirs)
    names = run_names(dirs)
    return {
        "runs": names,
        "recipes": [{"field": field, "values": values} for field, values in recipe_differences(reports)],
        "rows": [
            {
                "method": line.method,
                "params": line.params,
                "metric": line.metric.name,
                "runs": [_numbers(line, run) for run in range(len(names))],
            }
            for line in lines(reports)
        ],
        "notes": [DIFFERENCE_NOTE] if len(names) > 1 else [],
    }


def _numbers(line: Line, run: int) -> Record | None:
    """Returns what a line says of a run, in full; null for a run that has no such row."""
    row, apart = line.rows[run], (line.difference(run) if run else None) or Measure(None)
    if row is None:
        return None
    name = line.metric.name
    return {
        "status": row.row.status,
        "value": line.verdicts[run] if line.metric is VERDICT else row.value(name),
        "ci": row.bounds(name),
        "difference": apart.value,
        "difference_ci": apart.interval,
    }


def _loaded(dirs: Sequence[Path]) -> list[Report]:
    if not dirs:
        raise ResultsError("dirs: no folder given; give the output folders of one or more runs")
    return [Report.load(folder, f"run {place}") for place, folder in enumerate(dirs)]


def run_names(dirs: Sequence[Path]) -> list[str]:
    """Returns the shortest endings of the paths that tell the runs apart, numbered where a folder
    is given twice."""
    parts = [folder.absolute().parts for folder in dirs]
    for length in range(1, max(len(p) for p in parts) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return [words.clean(name) for name in names]
    return [words.clean(f"{folder.name} ({i})") for i, folder in enumerate(dirs, start=1)]


def recipe_differences(reports: Sequence[Report]) -> list[tuple[str, list[str]]]:
    """Returns (field, value in each run) for every recipe field and data digest that is not the
    same in all runs."""
    flat = []
    for report in reports:
        facts = report.environment
        found = dict(_flat(report.recipe, ""))
        for name in ("dataset", "split"):
            digest = (facts.get(name) or {}).get("digest")
            if digest:
                found[f"{name} digest"] = digest[:12]
        commit = (facts.get("git") or {}).get("commit")
        if commit:
            found["code commit"] = commit[:12] + (" (changed)" if facts["git"].get("dirty") else "")
        flat.append(found)
    fields = dict.fromkeys(name for each in flat for name in each)
    texts = {name: [words.clean(each[name]) if name in each else ABSENT for each in flat] for name in fields}
    return [(name, values) for name, values in texts.items() if len(set(values)) > 1]


def _flat(value: object, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for i, inner in enumerate(value):
            yield from _flat(inner, f"{prefix}.{i}")
    else:
        yield prefix, words.value_text(value, 80)


def lines(reports: Sequence[Report]) -> Iterator[Line]:
    """Yields a line for each row, matched by method and parameters, and each metric that any run
    measured."""
    keyed = [_keyed(report) for report in reports]
    auc_names = dict.fromkeys(name for report in reports for name in report.auc_names)
    metrics = [words.metric(name) for name in (*auc_names, *(name for name in words.METRICS if name not in auc_names))]
    alike: dict[str, list[Object]] = {}
    for report in reports:
        for row in report.rows:
            alike.setdefault(row.method, []).append(row.params)
    varying = {method: varying_names(params) for method, params in alike.items()}
    for key in dict.fromkeys(key for each in keyed for key in each):
        found = tuple(each.get(key) for each in keyed)
        verdicts = tuple(
            report.judgements[each.index].word if each is not None else ABSENT
            for report, each in zip(reports, found, strict=True)
        )
        row = next(row for row in found if row is not None)
        shown = words.parameters_text(row.params, varying[row.method] or None)
        measured = [m for m in metrics if any(each is not None and each.value(m.name) is not None for each in found)]
        for metric in (VERDICT, *measured):
            yield Line(row.method, row.title, row.params, shown, metric, found, verdicts)


def _keyed(report: Report) -> dict[tuple[str, str, int], ResultRow]:
    """Returns rows by method, parameters, and a count for rows that are there twice."""
    found: dict[tuple[str, str, int], ResultRow] = {}
    for row in report.rows:
        canonical = json.dumps(row.params, sort_keys=True, default=str)
        copy = 0
        while (row.method, canonical, copy) in found:
            copy += 1
        found[row.method, canonical, copy] = row
    return found


def value(line: Line, run: int) -> str:
    """Returns what a line says of a run, as text."""
    row = line.rows[run]
    if line.metric is VERDICT or row is None:
        return line.verdicts[run]
    return "failed" if not row.done and row.value(line.metric.name) is None else row.text(line.metric.name)


def difference(line: Line, run: int) -> tuple[str, bool]:
    """Returns a difference as text, and whether its interval leaves 0 out."""
    found = line.difference(run)
    if found is None:
        return ABSENT, False
    text = words.signed(found.value or 0.0, line.metric.kind)
    if found.interval is None:
        return text, False
    low, high = (words.signed(end, line.metric.kind) for end in found.interval)
    return f"{text} [{low}, {high}]", found.interval[0] > 0 or found.interval[1] < 0


def _csv(names: Sequence[str], recipe: Sequence[tuple[str, list[str]]], table: Sequence[Line]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ("kind", "method", "params", "name", "run", "status", "value", "low", "high")
    writer.writerow([*header, "difference", "difference_low", "difference_high"])
    for field, values in recipe:
        for name, value in zip(names, values, strict=True):
            writer.writerow([csv_cell(cell) for cell in ("recipe", "", "", field, name, "", value, "", "", "", "", "")])
    for line in table:
        for run, name in enumerate(names):
            found = _numbers(line, run)
            if found is None:
                continue
            params = json.dumps(line.params, ensure_ascii=False)
            cells = [
                *("metric", line.method, params, line.metric.name, name, found["status"]),
                *(found["value"], *(found["ci"] or (None, None))),
                *(found["difference"], *(found["difference_ci"] or (None, None))),
            ]
            writer.writerow([csv_cell(cell) for cell in cells])
    return out.getvalue()


def _headers(names: Sequence[str]) -> list[str]:
    return ["Method", "Parameters", "Metric", *names, *(f"{name} − {names[0]}" for name in names[1:])]


def _markdown(names: Sequence[str], recipe: Sequence[tuple[str, list[str]]], table: Sequence[Line]) -> str:
    found = ["### Recipes", ""]
    if recipe:
        found += [
            markdown_line([escape_markdown(cell) for cell in ("Field", *names)]),
            markdown_line(["---"] * (1 + len(names))),
        ]
        found += [markdown_line([escape_markdown(cell) for cell in (field, *values)]) for field, values in recipe]
    else:
        found.append("No difference.")
    head = [escape_markdown(cell) for cell in _headers(names)]
    found += ["", "### Results", "", markdown_line(head), markdown_line(["---"] * 3 + ["---:"] * (len(head) - 3))]
    for line in table:
        cells = [line.title, line.shown, line.metric.heading]
        cells = [escape_markdown(cell) for cell in cells] + [value(line, run) for run in range(len(names))]
        for run in range(1, len(names)):
            text, clear = difference(line, run)
            cells.append(f"**{text}**" if clear else text)
        found.append(markdown_line(cells))
    if len(names) > 1:
        found += ["", escape_markdown(DIFFERENCE_NOTE)]
    found += ["", f"{ABSENT}: no such row or no such number in a run. {words.NOT_MEASURABLE}: not measurable."]
    return "\n".join(found) + "\n"


def _latex(names: Sequence[str], recipe: Sequence[tuple[str, list[str]]], table: Sequence[Line]) -> str:
    found = [r"% \usepackage{booktabs}"]
    if recipe:
        found += [
            rf"\begin{{tabular}}{{l{'l' * len(names)}}}",
            r"\toprule",
            " & ".join(map(tex, ("Field", *names))) + r" \\",
            r"\midrule",
        ]
        found += [" & ".join(map(tex, (field, *values))) + r" \\" for field, values in recipe]
        found += [r"\bottomrule", r"\end{tabular}", "", r"\bigskip", ""]
    head = _headers(names)
    found += [
        rf"\begin{{tabular}}{{lll{'r' * (len(head) - 3)}}}",
        r"\toprule",
        " & ".join(map(tex, head)) + r" \\",
        r"\midrule",
    ]
    for line in table:
        label = line.metric.tex or tex(line.metric.label)
        unit = f" ({tex(line.metric.unit)})" if line.metric.unit else ""
        cells = [tex(line.title), tex(line.shown), label + unit]
        cells += [tex(value(line, run)) for run in range(len(names))]
        for run in range(1, len(names)):
            text, clear = difference(line, run)
            cells.append(rf"\textbf{{{tex(text)}}}" if clear else tex(text))
        found.append(" & ".join(cells) + r" \\")
    found.append(r"\bottomrule")
    if len(names) > 1:
        found.append(rf"\multicolumn{{{len(head)}}}{{l}}{{\footnotesize {tex(DIFFERENCE_NOTE)}}} \\")
    return "\n".join([*found, r"\end{tabular}"]) + "\n"
