"""The table of a league as CSV, Markdown and LaTeX, from `league.json`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping

from ..base.documents import LeagueCell, LeagueDocument, LeagueRow
from . import words
from .tables import csv_cell, escape_markdown, markdown_line, tex

REFERENCE = "reference"
GROUPS = {
    "forget": "see the forget set alone",
    "statistics": "see the forget set and stored statistics of the training data",
    "retain": "see retain data",
}
HEADINGS = {
    "klom/p95": "KLoM, 95th percentile",
    "forgetting_quality/score": "ε score",
    "average_gap": "Average gap",
    "tug_of_war": "Tug of war",
    "u_lira/auc": "U-LiRA AUC",
    "u_lira/tpr_at_fpr_0.01": "U-LiRA TPR at 1 % FPR",
    "rmia/auc": "RMIA AUC",
}
OUTSIDE = "*"
BAND_NOTE = f"{OUTSIDE}: outside the band of chance. [low, high]: 95 % interval over models."


def heading(column: str) -> str:
    """Returns what a column is called."""
    if column == "auc":
        return "XGBoost AUC"
    return HEADINGS.get(column) or words.metric(column).heading


def place(row: LeagueRow) -> str:
    """Returns a place with the places that cannot be excluded: `2 (2 to 4)`; a dash where there is
    none."""
    low, high = row["rank"], row["rank_high"]
    if low is None or high is None:
        return "–"
    return str(low) if low == high else f"{low} ({low} to {high})"


def number(cell: LeagueCell, column: str) -> str:
    """Returns a value; a star marks what lies outside the band of chance."""
    shown = words.number(cell["value"], kind_of(column))
    return f"{shown}{OUTSIDE}" if cell["outside"] else shown


def interval(cell: LeagueCell, column: str) -> str:
    """Returns the 95 % interval, empty where there is none."""
    low, high = cell["low"], cell["high"]
    return "" if low is None or high is None else words.interval((low, high), kind_of(column))


def kind_of(column: str) -> words.Kind:
    """Returns how a column's numbers are printed."""
    return "percent" if column == "average_gap" else words.metric(column).kind


def sees(row: LeagueRow) -> str:
    """Returns the data that a method sees, empty for the two references."""
    known = row["access"] in words.ACCESS
    return words.sees(row["access"], row["validation"], row.get("watched", "")) if known else ""


def to_csv(document: LeagueDocument) -> str:
    """Returns every number at full precision, with interval and band."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["group", "rank", "rank_high", "method", "params", "sees", "seeds", "models", "distance", "beats_nothing"]
    header += ["within_bound", "stopped_early", "spread_models", "spread_seeds", "worst_model", "worst_value"]
    for column in document["columns"]:
        header += [column, f"{column}_low", f"{column}_high", f"{column}_band_low", f"{column}_band_high"]
        header += [f"{column}_outside", f"{column}_p"]
    header += ["tuned_settings", "tuned_models", "tuned_seconds", "verdict", "why"]
    writer.writerow(header)
    spent = {each["method"]: each["spent"] for each in document["tuned"]}
    for row in document["rows"]:
        spread = row["spread"]
        line: list[object] = [row["group"], row["rank"], row["rank_high"], row["method"], row["params"], sees(row)]
        line += [row["seeds"], row["models"], row["distance"], row["beats_nothing"], row["within_bound"]]
        line += [row["stopped_early"], spread["models"], spread["seeds"], spread["worst_model"], spread["worst_value"]]
        for column in document["columns"]:
            cell = row["cells"][column]
            low, high = cell["band"] or (None, None)
            line += [cell["value"], cell["low"], cell["high"], low, high, cell["outside"], cell["p"]]
        mine = spent.get(row["method"])
        line += [None] * 3 if mine is None else [mine["settings"], mine["models"], mine["seconds"]]
        line += [row["verdict"], row["why"]]
        writer.writerow([csv_cell(value) for value in line])
    return out.getvalue()


def to_markdown(document: LeagueDocument) -> str:
    """Returns the table as GitHub-flavoured Markdown."""
    header = ["Place", "Method", "Sees", *(heading(column) for column in document["columns"])]
    lines = [markdown_line([escape_markdown(text) for text in header])]
    lines.append(markdown_line(["---", "---", "---", *(["---:"] * len(document["columns"]))]))
    for row in document["rows"]:
        cells = [place(row), row["title"], sees(row), *(_with_interval(row, column) for column in document["columns"])]
        lines.append(markdown_line([escape_markdown(text) for text in cells]))
    notes = [escape_markdown(note) for note in (*document["notes"], *document["cautions"])]
    return "\n".join(lines) + "\n" + "".join(f"\n{note}\n" for note in (*notes, escape_markdown(BAND_NOTE)))


def to_latex(document: LeagueDocument) -> str:
    """Returns a `tabular` for the `booktabs` package."""
    columns = document["columns"]
    lines = [
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{tabular}{lll" + "r" * len(columns) + "}",
        r"\toprule",
        " & ".join(tex(text) for text in ("Place", "Method", "Sees", *map(heading, columns))) + r" \\",
    ]
    previous = ""
    for row in document["rows"]:
        if row["group"] != previous:
            lines.append(r"\midrule")
            if row["group"] in GROUPS:
                lines.append(rf"\multicolumn{{{3 + len(columns)}}}{{l}}{{\emph{{{tex(GROUPS[row['group']])}}}}} \\")
        previous = row["group"]
        cells = [tex(place(row)), tex(row["title"]), tex(sees(row))]
        for column in columns:
            bounds = interval(row["cells"][column], column)
            small = rf" {{\scriptsize [{bounds[1:-1]}]}}" if bounds else ""
            cells.append(tex(number(row["cells"][column], column)) + small)
        lines.append(" & ".join(cells) + r" \\")
    lines.append(r"\bottomrule")
    notes = (*document["notes"], BAND_NOTE)
    lines += [rf"\multicolumn{{{3 + len(columns)}}}{{l}}{{\footnotesize {tex(note)}}} \\" for note in notes]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


FORMATS: Mapping[str, Callable[[LeagueDocument], str]] = {"csv": to_csv, "md": to_markdown, "tex": to_latex}


def _with_interval(row: LeagueRow, column: str) -> str:
    cell = row["cells"][column]
    return f"{number(cell, column)} {interval(cell, column)}".strip()
