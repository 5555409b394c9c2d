"""The table that a command ends with: narrow enough for a terminal, whatever was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from . import words
from .collateral import sentences
from .rows import Report, ResultRow
from .tables import cell, in_groups

STYLES = {
    "forgot": "green",
    "remembers": "red",
    "over-unlearned": "magenta",
    "damaged": "magenta",
    "undecided": "yellow",
    "failed": "red",
}
# so many attacks stand in one table with everything else; more get a table of their own
SIDE_BY_SIDE = 2
HEADS = {
    "auc_minus_retrain": "AUC −\nRetrain's",
    "tpr_at_fpr_0.01": "TPR@\n1%FPR",
    "tpr_at_fpr_0.001": "TPR@\n0.1%FPR",
    "error_forget": "error %\nD_f",
    "error_retain": "\nD_r",
    "error_test": "\ntest",
    "seconds_per_model": "s per\nmodel",
    "speedup_vs_retrain": "speed-\nup",
    "klom/p95": "KLoM\n95th pct",
    "forgetting_quality/score": "forgetting\nmean score",
    "ks_log_entropy": "KS of\nlog H",
}
WITH_INTERVAL = ("auc_minus_retrain",)
OF_THE_ATTACK = ("auc_minus_retrain", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001")
BLOCKS = (  # columns that stay together where not all fit beside each other
    *((name,) for name in OF_THE_ATTACK),
    ("error_forget", "error_retain", "error_test"),
    ("seconds_per_model", "speedup_vs_retrain"),
    ("klom/p95", "forgetting_quality/score", "ks_log_entropy"),
)
NATURAL_WIDTH = 10_000


def render(report: Report) -> Group:
    """Returns one table; where more than two attacks were run, their AUCs as a table of methods ×
    attacks before the rest.

    What is too wide for the terminal goes on in further tables. Nothing is cut off.
    """
    hurt = [Text(sentence) for sentence in sentences(report)]
    if len(report.auc_names) <= SIDE_BY_SIDE:
        return Group(_Fitted(report, report.auc_names), *hurt)
    return Group(_Fitted(report, (), report.auc_names), "", _Fitted(report, ()), *hurt)


@dataclass(frozen=True)
class _Fitted:
    """The measures in as few tables as the terminal's width allows; `leading`, the AUCs, and the
    verdicts in the first. With `attacks` it is the AUCs of these, methods × attacks."""

    report: Report
    leading: Sequence[str]
    attacks: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        def fits(table: Table) -> bool:
            natural = options.update(width=NATURAL_WIDTH)
            return console.measure(table, options=natural).maximum <= options.max_width

        tables = self._matrices(fits) if self.attacks else self._tables(fits)
        for number, table in enumerate(tables):
            if number:
                yield ""
            yield table

    def _tables(self, fits: Callable[[Table], bool]) -> Iterator[Table]:
        names, leading = list(self.leading), self.leading
        if leading and not fits(_table(self.report, names, leading)):
            yield _verdicts(self.report)  # too narrow for both: the AUCs go on below it
            names, leading = [], ()
            yield from self._one_by_one(fits)
        for block in BLOCKS:
            known = [name for name in block if any(row.value(name) is not None for row in self.report.rows)]
            if names and known and not fits(_table(self.report, [*names, *known], leading)):
                yield _table(self.report, names, leading)
                names, leading = [], ()
            names += known
        if names or not self.leading:
            yield _table(self.report, names, leading)

    def _one_by_one(self, fits: Callable[[Table], bool]) -> Iterator[Table]:
        """The AUCs, as many beside each other as fit."""
        for names in self._fitting(self.leading, lambda names: fits(_matrix(self.report, names))):
            yield _matrix(self.report, names)

    def _matrices(self, fits: Callable[[Table], bool]) -> Iterator[Table]:
        if fits(_matrix(self.report, self.attacks, verdicts=True)):
            yield _matrix(self.report, self.attacks, verdicts=True)
            return
        yield _verdicts(self.report)
        for names in self._fitting(self.attacks, lambda names: fits(_matrix(self.report, names))):
            yield _matrix(self.report, names)

    def _fitting(self, names: Sequence[str], fits: Callable[[Sequence[str]], bool]) -> Iterator[Sequence[str]]:
        """Deals names out in order, as many together as fit, one at the least."""
        together: list[str] = []
        for name in names:
            if together and not fits([*together, name]):
                yield together
                together = []
            together.append(name)
        if together:
            yield together


def _table(report: Report, names: Sequence[str], leading: Sequence[str]) -> Table:
    """One line a row. `leading`: the AUCs, where the table shows them; else verdicts and the
    headings of groups stand in a table above."""
    found = _empty()
    by_attack = not leading and any(name in OF_THE_ATTACK for name in names)
    first = f"by {words.attack_name(report.attack_of(report.primary))}" if by_attack else "method"
    found.add_column(first, vertical="bottom", overflow="fold")
    for name in names:
        with_interval = name in leading or name in WITH_INTERVAL
        head = HEADS.get(name) or ("AUC" if name == "auc" else words.metric(name).label.replace(" ", "\n"))
        found.add_column(
            head + (" [95 % CI]" if with_interval else ""), justify="right", vertical="bottom", no_wrap=True
        )
    if leading:
        found.add_column("verdict", vertical="bottom", no_wrap=True)
    for heading, row in in_groups(report):
        _head(found, heading if leading else "")
        cells = []
        for name in names:
            value, bounds, marked = cell(report, row, words.metric(name))
            text = f"{value} {bounds}".strip() if name in leading or name in WITH_INTERVAL else value
            cells.append(Text("" if not row.done and row.value(name) is None else text, style="bold" if marked else ""))
        found.add_row(Text(row.label), *cells, *([_verdict(report, row)] if leading else []))
    return found


def _verdicts(report: Report) -> Table:
    """Methods and their verdicts alone, for a narrow terminal."""
    found = _empty()
    found.add_column("method", overflow="fold")
    found.add_column("verdict", no_wrap=True)
    for heading, row in in_groups(report):
        _head(found, heading)
        found.add_row(Text(row.label), _verdict(report, row))
    return found


def _matrix(report: Report, names: Sequence[str], verdicts: bool = False) -> Table:
    """Methods × attacks: the AUC, and under it its interval; then the verdict on all of them."""
    found = _empty()
    found.add_column("AUC by", vertical="bottom", overflow="fold")
    for name in names:
        found.add_column(
            words.attack_name(report.attack_of(name)).replace(" ", "\n"),
            justify="right",
            vertical="bottom",
            no_wrap=True,
        )
    if verdicts:
        found.add_column("verdict", vertical="bottom", no_wrap=True)
    for heading, row in in_groups(report):
        _head(found, heading if verdicts else "")
        cells = []
        for name in names:
            value, bounds, marked = cell(report, row, words.metric(name))
            text = Text("" if not row.done and row.value(name) is None else value, style="bold" if marked else "")
            if bounds:
                text.append(f"\n{_short(row.bounds(name))}", style="not bold dim")
            cells.append(text)
        found.add_row(Text(row.label), *cells, *([_verdict(report, row)] if verdicts else []))
    return found


def _empty() -> Table:
    return Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1), collapse_padding=True)


def _head(table: Table, heading: str) -> None:
    if heading:
        table.add_row(Text(f"sees {heading}", style="dim italic"))


def _short(bounds: Sequence[float] | None) -> str:
    """Returns an interval without the noughts before the points, which all AUCs share: `[.66
    .72]`."""
    low, high = bounds or (0.0, 1.0)
    return f"[{low:.2f} {high:.2f}]".replace("0.", ".")


def _verdict(report: Report, row: ResultRow) -> Text:
    word = report.judgements[row.index].word
    return Text(word, style=STYLES[word])
