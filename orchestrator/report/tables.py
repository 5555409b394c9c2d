"""The result table as CSV, Markdown and LaTeX.

CSV is for programs: every metric at full precision, an empty cell where nothing was measured. The
others are for people.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..base.errors import did_you_mean
from ..base.values import Record
from . import words
from .rows import Report, ResultRow, ResultsError

FORMATS = ("csv", "md", "latex")
NOT_MEASURABLE_NOTE = f"{words.NOT_MEASURABLE}: not measurable."
INTERVAL_NOTE = "[low, high]: 95 % interval over models."
GROUP_NOTE = "Headings: the data that a method sees. D_f is the forget set, D_r the retain set."
MARK_NOTE = "Bold, among unlearning methods: AUC nearest 0.5, errors nearest to Retrain's, highest speed-up."


@dataclass(frozen=True)
class Style:
    """How a LaTeX table is set.

    **Arguments:** `columns`: metrics to show, in this order; none: all that were measured.
    `caption`, `label`: make it a `table` of its own, no wider than the page.
    """

    columns: tuple[str, ...] = ()
    caption: str = ""
    label: str = ""


PLAIN = Style()


def columns(report: Report) -> tuple[list[words.Metric], list[str]]:
    """Returns the metrics worth a column, and the names of those that no row could measure."""
    names = list(words.METRICS)
    names[1:1] = [name for name in report.auc_names if name != "auc"]
    measured = {name: any(row.value(name) is not None for row in report.rows) for name in names}
    known = {name for row in report.rows for name in row.row.metrics}
    shown = [words.metric(name) for name in names if measured[name]]
    return shown, [words.metric(name).label for name in names if name in known and not measured[name]]


def in_groups(report: Report) -> Iterator[tuple[str, ResultRow]]:
    """Yields the rows by the data that their methods see; the first of each group with its
    heading."""
    for heading, rows in report.groups:
        for row in rows:
            yield heading if row is rows[0] else "", row


def notes(report: Report) -> list[str]:
    """Returns the remarks that belong under the table."""
    shown, missing = columns(report)
    done = [row for row in report.rows if row.done]
    found = [GROUP_NOTE] if any(heading for heading, _ in report.groups) else []
    if any(row.bounds(metric.name) for row in done for metric in shown):
        found.append(INTERVAL_NOTE)
    if report.marked:
        found.append(MARK_NOTE)
    if any(row.value(metric.name) is None for row in done for metric in shown):
        found.append(NOT_MEASURABLE_NOTE)
    if missing:
        found.append(f"Not measurable in any row, left out: {', '.join(missing)}.")
    return found


def to_csv(report: Report) -> str:
    """Returns all rows and metrics at full precision, `metric_low` and `metric_high` beside each
    that has an interval."""
    names = list(dict.fromkeys(name for row in report.rows for name in row.row.metrics))
    order = list(words.METRICS)
    names.sort(key=lambda name: (order.index(name) if name in order else len(order), name))
    with_ci = {name for row in report.rows for name, measure in row.row.metrics.items() if measure.interval}
    params = list(dict.fromkeys(name for row in report.rows for name in row.params))
    header = ["method", *(f"param.{name}" for name in params), "access", "validation", "status", "models"]
    for name in names:
        header += [name, f"{name}_low", f"{name}_high"] if name in with_ci else [name]
    header += ["verdict", "error"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([csv_cell(text) for text in header])
    for _, row in in_groups(report):
        sees = [row.row.access, row.row.validation if row.row.access else None]
        line: list[object] = [row.method, *(row.params.get(name) for name in params), *sees, row.row.status, row.models]
        for name in names:
            low, high = row.bounds(name) or (None, None)
            line += [row.value(name), low, high] if name in with_ci else [row.value(name)]
        line += [report.judgements[row.index].word, row.error]
        writer.writerow([csv_cell(value) for value in line])
    return out.getvalue()


def to_document(report: Report) -> Record:
    """Returns what the CSV says as JSON data, with names as in `results.json`."""
    rows = [
        {
            "method": row.method,
            "params": row.params,
            "access": row.row.access,
            "validation": row.row.validation,
            "status": row.row.status,
            "models": row.models,
            "metrics": {name: row.value(name) for name in row.row.metrics},
            "ci": {name: bounds for name in row.row.metrics if (bounds := row.bounds(name))},
            "verdict": report.judgements[row.index].word,
            "error": row.error,
        }
        for _, row in in_groups(report)
    ]
    return {"rows": rows, "notes": notes(report)}


def csv_cell(value: object) -> str:
    """Returns a CSV cell: numbers in full, nothing for null, and no text that a spreadsheet would
    run as a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    text = words.clean(value) if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return f"'{text}" if text[:1] in ("=", "+", "@", "\t") else text


def cell(report: Report, row: ResultRow, metric: words.Metric) -> tuple[str, str, bool]:
    """Returns a value, its interval, and whether it is marked as the best or the nearest to
    Retrain."""
    marked = (row.index, metric.name) in report.marked
    return (
        words.number(row.value(metric.name), metric.kind),
        words.interval(row.bounds(metric.name), metric.kind),
        marked,
    )


def to_markdown(report: Report) -> str:
    """Returns the table as GitHub-flavoured Markdown."""
    shown, _ = columns(report)
    header = ["Method", "Parameters", *(metric.heading for metric in shown), "Verdict"]
    lines = [markdown_line(header), markdown_line(["---", "---", *(["---:"] * len(shown)), "---"])]
    for heading, row in in_groups(report):
        if heading:
            lines.append(markdown_line([f"*sees {escape_markdown(heading)}*", *[""] * (len(header) - 1)]))
        cells = [escape_markdown(row.title), escape_markdown(row.short)]
        for metric in shown:
            value, bounds, marked = cell(report, row, metric)
            text = (
                ""
                if not row.done and row.value(metric.name) is None
                else f"**{value}** {bounds}"
                if marked
                else f"{value} {bounds}"
            )
            cells.append(text.strip())
        word = report.judgements[row.index].word
        cells.append(f"failed: {escape_markdown(row.error)}" if word == "failed" else word)
        lines.append(markdown_line(cells))
    remarks = [f"\n{escape_markdown(note)}" for note in notes(report)]
    return "\n".join(lines) + "\n" + "".join(f"{remark}\n" for remark in remarks)


def markdown_line(cells: Sequence[str]) -> str:
    """Returns one line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def escape_markdown(text: str) -> str:
    """Escapes what Markdown or the HTML in it would take for its own."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)


def chosen(report: Report, names: Sequence[str]) -> list[words.Metric]:
    """Returns the metrics of these names; all that were measured where none is named.

    **Raises:** `ResultsError` where one was not measured.
    """
    shown, _ = columns(report)
    known = {metric.name: metric for metric in shown}
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ResultsError(f"--columns: {name!r}: no such column; allowed: {', '.join(known)}{hint}")
    return [known[name] for name in names] or shown


def to_latex(report: Report, style: Style = PLAIN) -> str:
    """Returns a `tabular` for the `booktabs` package, with its notes as a line under the rules.

    With a caption or a label it stands in a `table`, scaled to the page where it is wider.
    """
    text = _tabular(report, chosen(report, style.columns))
    if not (style.caption or style.label):
        return text
    first, _, rest = text.partition("\n")
    lines = [first.replace("graphicx", "graphicx,adjustbox"), r"\begin{table}[htbp]", r"\centering"]
    lines += [rf"\caption{{{tex(style.caption)}}}"] if style.caption else []
    lines += [rf"\label{{{style.label}}}"] if style.label else []
    lines += [r"\begin{adjustbox}{max width=\linewidth}", rest.rstrip(), r"\end{adjustbox}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _tabular(report: Report, shown: Sequence[words.Metric]) -> str:
    header = ["Method", "Parameters", *(_tex_heading(metric) for metric in shown), "Verdict"]
    lines = [
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{tabular}{ll" + "r" * len(shown) + "l}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
    ]
    previous: str | None = None
    for heading, row in in_groups(report):
        if heading or (previous is not None and (previous in words.BASELINES) != row.baseline):
            lines.append(r"\midrule")
        if heading:
            lines.append(rf"\multicolumn{{{len(header)}}}{{l}}{{\emph{{sees {_tex_sets(heading)}}}}} \\")
        previous = row.method
        cells = [tex(row.title), tex(row.short)]
        if not row.done:
            reason = tex(words.shorten(row.error, 90))
            cells.append(rf"\multicolumn{{{len(shown)}}}{{l}}{{\emph{{{reason}}}}}" if shown else "")
        else:
            for metric in shown:
                value, bounds, marked = cell(report, row, metric)
                value = rf"\textbf{{{tex(value)}}}" if marked else tex(value)
                # A cell must not begin with "[", which \\ of the line before would take for its
                # argument.
                cells.append(value + (rf" {{\scriptsize [{bounds[1:-1]}]}}" if bounds else ""))
        cells.append(report.judgements[row.index].word)
        lines.append(" & ".join(cells) + r" \\")
    lines.append(r"\bottomrule")
    lines += [rf"\multicolumn{{{len(header)}}}{{l}}{{\footnotesize {_tex_sets(note)}}} \\" for note in notes(report)]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _tex_sets(text: str) -> str:
    """Returns `text` for LaTeX with D_f and D_r as mathematicians write them."""
    return re.sub(r"D\\_([fr])\b", r"$D_\1$", tex(text))


def _tex_heading(metric: words.Metric) -> str:
    label = metric.tex or tex(metric.label)
    return f"{label} ({tex(metric.unit)})" if metric.unit else label


_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "×": r"$\times$",
    "−": r"$-$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "γ": r"$\gamma$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "λ": r"$\lambda$",
    "ε": r"$\varepsilon$",
    "\u00a0": "~",
}


def tex(text: str) -> str:
    """Returns `text` with every character that LaTeX reads as a command written out."""
    return "".join(_TEX.get(character, character) for character in text)


def render(report: Report, format: str, style: Style = PLAIN) -> str:
    """Returns the table in one of `FORMATS`. `style` is of LaTeX alone.

    **Raises:** `ValueError` for another format.
    """
    if format == "latex":
        return to_latex(report, style)
    renderers = {"csv": to_csv, "md": to_markdown}
    if format not in renderers:
        raise ResultsError(f"format: {format!r}: unknown; allowed: {', '.join(FORMATS)}")
    return renderers[format](report)
