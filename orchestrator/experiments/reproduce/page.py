"""The page of a reproduction: Markdown for repositories, HTML for readers, and each table as CSV,
Markdown and LaTeX.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from attack.metrics.measure import Measure

from ...base.values import Record
from ...report.figures.drawing import Drawing
from ...report.tables import escape_markdown, markdown_line, tex
from ...report.templates import render
from .claims import FAILS, HOLDS, OPEN, Verdict
from .item import Comparison, Finding

SYMBOLS = {HOLDS: "✓", FAILS: "✗", OPEN: "?"}


def to_csv(table: Comparison) -> str:
    """Returns the table for programs: full precision, a low and a high column beside what has
    intervals.
    """
    ranged = [any(isinstance(row[i], Measure) for row in table.rows) for i in range(len(table.columns))]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header: list[str] = []
    for name, has in zip(table.columns, ranged, strict=True):
        header += [name, f"{name} low", f"{name} high"] if has else [name]
    writer.writerow(header)
    for row in table.rows:
        line: list[object] = []
        for cell, has in zip(row, ranged, strict=True):
            if isinstance(cell, Measure):
                line += ["" if v is None else repr(v) for v in (cell.value, cell.low, cell.high)]
            else:
                line += ["" if cell is None else cell, *(["", ""] if has else [])]
        writer.writerow(line)
    return out.getvalue()


def to_markdown(table: Comparison) -> str:
    """Returns the table as GitHub-flavoured Markdown with its note."""
    lines = [markdown_line([escape_markdown(name) for name in table.columns])]
    lines.append(markdown_line(["---", *["---:"] * (len(table.columns) - 1)]))
    lines += [markdown_line([escape_markdown(text) for text in row]) for row in table.texts()]
    note = f"\n{escape_markdown(table.note)} [low, high]: 95 % intervals over models.\n"
    return "\n".join(lines) + "\n" + note


def to_latex(table: Comparison) -> str:
    """Returns the table as LaTeX (booktabs)."""
    body = [" & ".join(tex(text) for text in row) + r" \\" for row in table.texts()]
    head = " & ".join(tex(name) for name in table.columns) + r" \\"
    lines = [r"\begin{tabular}{l" + "r" * (len(table.columns) - 1) + "}", r"\toprule", head, r"\midrule", *body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


FORMATS: Mapping[str, Callable[[Comparison], str]] = {"csv": to_csv, "md": to_markdown, "tex": to_latex}


def facts(findings: Sequence[Finding], size: str) -> list[str]:
    """Returns what was run where: the command, the commit, the machine, the time."""
    environments = [e.environment for finding in findings for e in finding.experiments.values()]
    commits = sorted({_commit(each) for each in environments})
    machines = sorted({f"{each['hardware']['cpus']} CPU cores ({each['hardware']['where']})" for each in environments})
    names = " ".join(finding.item.name for finding in findings)
    return [
        f"Command: `orchestrator reproduce {names} --size {size}`",
        f"Commit: {', '.join(commits)}",
        f"Machine: {', '.join(machines)}",
    ]


def _commit(environment: Record) -> str:
    git = environment.get("git") or {}
    return f"{git.get('commit', 'unknown')[:10]}{' (changed since)' if git.get('dirty') else ''}"


def counts(findings: Sequence[Finding]) -> str:
    """Returns how many claims hold, in words."""
    verdicts = [verdict for finding in findings for _, verdict in finding.verdicts]
    ours, alone = Counter(v.word for v in verdicts), Counter(v.published for v in verdicts)
    said = f"{ours[HOLDS]} of {len(verdicts)} claims hold here, {ours[FAILS]} do not, {ours[OPEN]} are not measurable at this size."
    if alone == ours:
        return said
    return f"{said} By the AUC alone, as the paper judges, {alone[HOLDS]} hold, {alone[FAILS]} do not, {alone[OPEN]} are not measurable."


def _alone(verdict: Verdict) -> str:
    return f" By the AUC alone: {verdict.by_auc}." if verdict.by_auc else ""


def markdown(findings: Sequence[Finding], size: str) -> str:
    """Returns the whole page as Markdown, with links to the figures."""
    parts = [f"# Reproduction at size {size}\n", *(f"{line}  " for line in facts(findings, size))]
    parts += ["", counts(findings) + " Verdicts are computed from 95 % intervals; none is written by hand.", ""]
    lines = [markdown_line(["item", "claim", "verdict"]), markdown_line(["---", "---", "---"])]
    for finding in findings:
        for number, (text, verdict) in enumerate(finding.verdicts, start=1):
            linked = f"[{escape_markdown(text)}](claims/{finding.item.name}-{number}.md)"
            lines.append(
                markdown_line([finding.item.title, linked, f"{SYMBOLS[verdict.word]} {verdict.word}.{_alone(verdict)}"])
            )
    parts += ["\n".join(lines), ""]
    for finding in findings:
        parts += [f"## {finding.item.title}\n", f"{finding.item.about} {_recipe(finding)}\n"]
        if finding.comparison is not None:
            parts.append(to_markdown(finding.comparison))
        for text, verdict in finding.verdicts:
            parts.append(
                f"- {SYMBOLS[verdict.word]} **{verdict.word}**: {escape_markdown(text)}  \n  {escape_markdown(verdict.because)}{_alone(verdict)}"
            )
        parts.append("")
        for figure in finding.item.figures(finding.experiments):
            parts += [f"![{figure.title}](figures/{figure.name}.png)\n", f"{figure.caption}\n"]
    return "\n".join(parts)


def _recipe(finding: Finding) -> str:
    """Says in one sentence what was trained on what."""
    experiment = next(iter(finding.experiments.values()))
    recipe, data = experiment.recipe, experiment.environment["dataset"]
    model = recipe["model"]
    width = f" at width {model['width']:g}" if model.get("width", 1.0) != 1.0 else ""
    shadows = recipe["shadows"]
    precision = recipe["training"].get("precision", "float32")
    trained = "" if precision == "float32" else f" trained in {precision}"
    return (
        f"Measured with {model['name']}{width}{trained} on {data['train']:,} training images of {data['classes']} classes, "
        f"{shadows['originals']} original and {shadows['retrained']} retrained models, {shadows['split'][2]} of each under test."
    )


def html(findings: Sequence[Finding], size: str, drawings: Mapping[str, Sequence[Drawing]]) -> str:
    """Returns the whole page as one HTML file that loads nothing from elsewhere.

    **Arguments:** `drawings`: of each item, by its name.
    """
    items = [
        {
            "name": finding.item.name,
            "title": finding.item.title,
            "about": f"{finding.item.about} {_recipe(finding)}",
            "columns": finding.comparison.columns if finding.comparison else (),
            "rows": finding.comparison.texts() if finding.comparison else [],
            "note": finding.comparison.note if finding.comparison else "",
            "claims": [
                (text, verdict.word, SYMBOLS[verdict.word], f"{verdict.because} {verdict.decides}{_alone(verdict)}")
                for text, verdict in finding.verdicts
            ],
            "figures": [
                {
                    "title": drawing.figure.title,
                    "caption": drawing.figure.caption,
                    "panels": [Markup(panel) for panel in drawing.panels],
                }
                for drawing in drawings[finding.item.name]
            ],
        }
        for finding in findings
    ]
    values = dict(
        title=f"Reproduction at size {size}",
        facts=[line.replace("`", "") for line in facts(findings, size)],
        counts=counts(findings),
        items=items,
    )
    return render("reproduce.html", values)
