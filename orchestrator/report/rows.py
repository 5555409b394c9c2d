"""Result rows as the tables, figures and the page look at them: labels, judgements, and which rows
a figure shows."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from attack.metrics.row import Row, auc_attack, auc_names
from attack.metrics.verdict import Verdict, VerdictWord

from ..base.documents import ConfidenceCurve, Curves, IncrementalCurve, Results, RocCurve, UnlearningCurve
from ..base.errors import UserError
from ..base.text import varying_names
from ..base.values import Object, Record
from . import words

WORDS: dict[VerdictWord, words.Verdict] = {
    "forgot": "forgot",
    "remembers": "remembers",
    "over_unlearned": "over-unlearned",
    "damaged": "damaged",
    "undecided": "undecided",
}


class ResultsError(UserError, ValueError):
    """A folder without results that can be read, or a format that is not known: one line for the
    user."""


@dataclass(frozen=True)
class Judgement:
    """One word about a row, the sentences behind it, and the verdict that both come from."""

    word: words.Verdict
    sentence: str
    verdict: Verdict | None = None


@dataclass(frozen=True)
class ResultRow:
    """A row of `results.json` with its place `index`, its `label`, and the parameters in which it
    differs from its like."""

    index: int
    row: Row
    varying: tuple[str, ...]
    label: str

    @property
    def method(self) -> str:
        return words.clean(self.row.method)

    @property
    def title(self) -> str:
        """The method's name in print; its recipe name where the results do not tell."""
        return _title(self.row)

    @property
    def group(self) -> str:
        """The data that the method sees, as a heading; empty where that is not known."""
        known = self.row.access in words.ACCESS
        return words.sees(self.row.access, self.row.validation, self.row.watched) if known else ""

    @property
    def params(self) -> Object:
        return self.row.params

    @property
    def done(self) -> bool:
        return self.row.done

    @property
    def error(self) -> str:
        return words.clean(self.row.error or ("" if self.done else "no reason recorded"))

    @property
    def models(self) -> int | None:
        return self.row.models

    @property
    def baseline(self) -> bool:
        return self.method in words.BASELINES

    @property
    def short(self) -> str:
        """The parameters in which this row differs from the other rows of its method; all, cut
        short, where it is alone."""
        return words.parameters_text(self.params, self.varying or None)

    def value(self, name: str) -> float | None:
        """Returns a metric; None where it was not measured."""
        return self.row[name].value

    def number(self, name: str) -> float:
        """Returns a metric; NaN, which no figure draws, where it was not measured."""
        value = self.value(name)
        return math.nan if value is None else value

    def bounds(self, name: str) -> tuple[float, float] | None:
        """Returns the 95 % interval of a metric, or None."""
        return self.row[name].interval

    def text(self, name: str) -> str:
        """Returns a metric with its interval as text."""
        return words.with_interval(self.value(name), self.bounds(name), words.metric(name).kind)


@dataclass(frozen=True)
class Report:
    """A results document and its curves. `experiment` names it where several are compared."""

    results: Results
    curves: Curves = field(default_factory=lambda: Curves())
    experiment: str = ""

    @classmethod
    def load(cls, folder: Path, experiment: str = "") -> Report:
        """Reads `results.json`, and `curves.json` where there is one.

        **Raises:** `ResultsError` (a `ValueError`) where the results are missing, not JSON, or of a
        newer format.
        """
        path = folder / "results.json"
        try:
            results: Results = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ResultsError(f"{path}: cannot be read ({error.strerror}); give the output folder of a run") from None
        except ValueError as error:
            raise ResultsError(f"{path}: not JSON ({error}); `orchestrator report DIR` writes it again") from None
        if not isinstance(results, dict) or not isinstance(results.get("rows"), list):
            raise ResultsError(f"{path}: rows: not a results document; `orchestrator report DIR` writes it again")
        if results.get("schema", 1) > 1:
            raise ResultsError(
                f"{path}: schema: {results['schema']}: this version reads 1; use the version that wrote it"
            )
        try:
            curves: Curves = json.loads((folder / "curves.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            curves = Curves()
        return cls(results, curves if isinstance(curves, dict) else Curves(), experiment)

    @cached_property
    def rows(self) -> tuple[ResultRow, ...]:
        rows = [Row.from_json(row, self.experiment) for row in self.results.get("rows") or []]
        groups: dict[str, list[Object]] = {}
        for row in rows:
            groups.setdefault(row.method, []).append(row.params)
        varying = {method: varying_names(params) for method, params in groups.items()}
        return tuple(
            ResultRow(index, row, varying[row.method], _label(row, varying[row.method]))
            for index, row in enumerate(rows)
        )

    @cached_property
    def groups(self) -> tuple[tuple[str, tuple[ResultRow, ...]], ...]:
        """The rows by the data that their methods see, from little to much, each with a heading.

        Rows of which that is not known come first, the reference rows among them, under no heading.
        """
        kinds = itertools.product(words.ACCESS, (False, True), ("", *words.WATCHED))
        order = ["", *(words.sees(*kind) for kind in kinds)]
        return tuple((name, rows) for name in order if (rows := tuple(r for r in self.rows if r.group == name)))

    @property
    def recipe(self) -> Record:
        return self.results.get("recipe") or {}

    @property
    def environment(self) -> Record:
        return self.results.get("environment") or {}

    @property
    def name(self) -> str:
        return words.clean(self.recipe.get("name") or "experiment")

    @cached_property
    def auc_names(self) -> tuple[str, ...]:
        """The metrics that are an attack's AUC, the primary attack's first."""
        return tuple(auc_names(name for row in self.rows for name in row.row.metrics))

    @property
    def primary(self) -> str:
        """The AUC that verdicts and figures lead with."""
        return self.auc_names[0] if self.auc_names else "auc"

    def attack_of(self, auc: str) -> str:
        """Returns which attack measured the metric `auc`."""
        return auc_attack(auc) or auc

    def method(self, name: str) -> ResultRow | None:
        """Returns the first finished row of a method, such as `retrain`."""
        return next((row for row in self.rows if row.method == name and row.done), None)

    @cached_property
    def powerless(self) -> bool:
        """Whether no attack recognises even models that were never unlearned, so that nothing can
        be learned."""
        row = self.method("no_unlearn")
        judged = None if row is None else row.row.judged
        return judged is not None and bool(judged.leaks) and not any(leak.sees for leak in judged.leaks)

    @cached_property
    def few(self) -> int | None:
        """Independent models on the smallest side, where no unlearning row has enough for a
        verdict; else None."""
        verdicts = [self.judgements[row.index].verdict for row in self.rows if row.done and not row.baseline]
        found = [verdict.few for verdict in verdicts if verdict is not None]
        known = [few for few in found if few is not None]
        return min(known) if known and len(known) == len(found) else None

    @cached_property
    def judgements(self) -> tuple[Judgement, ...]:
        """The verdict on each row, as the results have it: nothing is judged a second time."""
        return tuple(_judgement(row) for row in self.rows)

    def best_of(self, rows: Sequence[ResultRow]) -> ResultRow | None:
        """Returns the row to lead with: forgot at the least test error; where none forgot, the AUC
        nearest 0.5."""
        done = [row for row in rows if row.done and row.value(self.primary) is not None]
        forgot = [row for row in done if self.judgements[row.index].word == "forgot"]
        if forgot and all(row.value("error_test") is not None for row in forgot):
            return min(forgot, key=lambda row: row.number("error_test"))
        return min(forgot or done, key=lambda row: abs(row.number(self.primary) - words.CHANCE), default=None)

    @cached_property
    def marked(self) -> frozenset[tuple[int, str]]:
        """(row, metric) pairs to mark: nearest to 0.5 for an AUC, nearest to Retrain for errors,
        the highest speed-up.

        Reference rows are not in the contest. Where more than half are level nothing is marked, as
        where there is no contest of two.
        """
        contest = [row for row in self.rows if row.done and not row.baseline]
        retrain = self.method("retrain")
        found: set[tuple[int, str]] = set()
        for name in (*self.auc_names, *words.METRICS):
            target = words.metric(name).target
            known = [row for row in contest if row.value(name) is not None]
            reference = words.CHANCE if target == "chance" else retrain.number(name) if retrain else math.nan
            if len(known) < 2 or target is None or (target == "retrain" and math.isnan(reference)):
                continue
            if target == "high":
                distance = {row.index: -row.number(name) for row in known}
            elif target == "low":
                distance = {row.index: row.number(name) for row in known}
            else:
                distance = {row.index: abs(row.number(name) - reference) for row in known}
            least = min(distance.values())
            best = {(index, name) for index, value in distance.items() if value == least}
            found |= best if 2 * len(best) <= len(known) else set()
        return frozenset(found)

    def select(self, candidates: Sequence[ResultRow], limit: int, per_method: int | None = None) -> list[ResultRow]:
        """Returns at most `limit` of the rows, in table order: references, each method's best, then
        spread over each method's rows."""
        if len(candidates) <= limit and per_method is None:
            return list(candidates)
        chosen = [row for row in candidates if row.baseline]
        groups: dict[str, list[ResultRow]] = {}
        for row in candidates:
            if not row.baseline:
                groups.setdefault(row.method, []).append(row)
        queues = [self._spread(rows)[: per_method or len(rows)] for rows in groups.values()]
        while len(chosen) < limit and any(queues):
            for queue in queues:
                if queue and len(chosen) < limit:
                    chosen.append(queue.pop(0))
        return sorted(chosen[:limit], key=lambda row: row.index)

    def _spread(self, rows: list[ResultRow]) -> list[ResultRow]:
        """Orders rows so that any beginning of the list is spread over all: the best, the two ends,
        then halves of what lies between."""
        best = self.best_of(rows)
        order = [] if best is None else [rows.index(best)]
        order += [0, len(rows) - 1]
        pending = [(0, len(rows) - 1)]
        while pending:
            low, high = pending.pop(0)
            middle = (low + high) // 2
            if high - low > 1:
                order.append(middle)
                pending += [(low, middle), (middle, high)]
        return [rows[i] for i in dict.fromkeys(order)]


def _judgement(row: ResultRow) -> Judgement:
    if not row.done:
        return Judgement("failed", row.error)
    verdict = row.row.judged
    if verdict is None:
        reason = row.row.verdict or "Nothing was judged."
        return Judgement("undecided", f"{reason} (not judged by this version's rule; run it again to judge it)")
    return Judgement(WORDS[verdict.word], verdict.sentence(words.attack_name), verdict)


def _label(row: Row, varying: Sequence[str]) -> str:
    """Returns `PGU γ=0.9`: the method with the parameters that tell its rows apart.

    Where it has one row only, with the parameter that its name speaks of.
    """
    shown = varying or [name for name in ("k", "gamma") if name in row.params][:1]
    return f"{_title(row)} {words.parameters_text(row.params, shown, limit=44)}".strip()


def _title(row: Row) -> str:
    return words.clean(row.title or words.REFERENCES.get(row.method) or row.method)


C = TypeVar("C", RocCurve, ConfidenceCurve, UnlearningCurve, IncrementalCurve)


def of_rows(report: Report, curves: Sequence[C] | None) -> list[tuple[C, ResultRow]]:
    """Returns curves with the rows that they belong to; a curve of no row is left out."""
    found = []
    for curve in curves or []:
        index = curve.get("row")
        if isinstance(index, int) and 0 <= index < len(report.rows):
            found.append((curve, report.rows[index]))
    return found
