"""The table of a league: from result rows to places, bands and cautions. Nothing is run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attack.metrics.measure import Measure
from attack.metrics.null_band import Band
from attack.metrics.ranks import LEVEL, Call, Contender, Standing, look, pairs_of
from attack.metrics.row import NO_UNLEARN, RETRAIN, Row, metric_name
from attack.metrics.spread import over_seeds, spread_of
from attack.metrics.students import holm
from unlearn import METHODS
from unlearn.core.rounding import within

from ...base.documents import LeagueCell, LeagueDocument, LeaguePair, LeagueRow, Tuned
from ...plan.league import GROUPS, LeaguePlan, bound_of
from .gaps import average_gap, tug_of_war

SCHEMA_VERSION = 1
FEW_MODELS = 8
REFERENCE = "reference"
# The columns of the table, in its order. Distances and attacks that a recipe does not name are left
# out.
COLUMNS = (
    "auc",
    "u_lira/auc",
    "u_lira/tpr_at_fpr_0.01",
    "rmia/auc",
    "klom/p95",
    "forgetting_quality/score",
    "error_forget",
    "error_retain",
    "error_test",
    "average_gap",
    "tug_of_war",
    "seconds_per_model",
    "speedup_vs_retrain",
)
NO_BAND = ("seconds_per_model", "speedup_vs_retrain")


@dataclass(frozen=True)
class Finalist:
    """A method with one result row for each unlearning seed."""

    name: str
    group: str
    rows: tuple[Row, ...]

    @property
    def done(self) -> bool:
        return all(row.done for row in self.rows)

    def metric(self, name: str) -> Measure:
        """Returns a metric over seeds."""
        return over_seeds([row[name] for row in self.rows])


def finalists(rows: Sequence[Row], plan: LeaguePlan) -> list[Finalist]:
    """Returns the methods of a league in the recipe's order, without the two reference rows."""
    found = []
    for entry in plan.entries:
        mine = tuple(row for row in rows if row.method == entry.name)
        if mine:
            found.append(Finalist(entry.name, GROUPS[METHODS[entry.name].access], mine))
    return found


def ranked_by(objective: str, attack: str) -> str:
    """Returns the metric that places are decided on."""
    names = {"auc_gap": metric_name(attack, "auc"), "klom": "klom/p95", "epsilon": "forgetting_quality/score"}
    return names[objective]


def contenders(plan: LeaguePlan, measures: Mapping[str, Measure], groups: Mapping[str, str]) -> list[Contender]:
    """Returns who is compared with whom: each method, and doing nothing in every group.

    **Arguments:** `measures`: what methods are ranked by. `groups`: of the methods that are ranked.
    """
    found = []
    for group in sorted(set(groups.values())):
        found.append(Contender(f"{NO_UNLEARN} {group}", group, measures[NO_UNLEARN]))
        found += [Contender(name, group, measures[name]) for name, its in groups.items() if its == group]
    if plan.league.objective == "epsilon":  # a score of 1 is the best
        found = [Contender(each.name, each.group, 1.0 - each.measure) for each in found]
    return found


def reference_of(plan: LeaguePlan, retrain: Measure) -> Measure | None:
    """Returns what the ranked number is compared with; None where it is a distance already."""
    return retrain if plan.league.objective == "auc_gap" else None


def build(
    plan: LeaguePlan, rows: Sequence[Row], tuned: Sequence[Tuned], earlier: Sequence[Call], looks: int
) -> LeagueDocument:
    """Returns the document of `league.json`.

    **Arguments:** `rows`: of the run of the winners. `earlier`: pairs that the first look told
    apart. `looks`: how many looks there are in all.
    """
    nothing, retrain = (next(row for row in rows if row.method == name) for name in (NO_UNLEARN, RETRAIN))
    methods = finalists(rows, plan)
    ranked = ranked_by(plan.league.objective, plan.attack)
    bound = bound_of(plan.league)
    kept = {each.name: _within(each, nothing, bound) for each in methods}
    groups = {each.name: each.group for each in methods if each.done and each.metric(ranked).known}
    measures = {NO_UNLEARN: nothing[ranked], **{each.name: each.metric(ranked) for each in methods}}
    field = contenders(plan, measures, groups)
    reference = reference_of(plan, retrain[ranked])
    everyone = look(field, reference, earlier=_known(earlier, field), number=looks, looks=looks)
    standing = everyone.among([each.name for each in field if kept.get(each.name) is not False])
    columns = _columns(plan, (nothing, retrain, *(row for each in methods for row in each.rows)))
    tables = {name: _column(name, plan, nothing, retrain, methods) for name in columns}
    found = [
        _reference(nothing, "Original", tables, NO_UNLEARN),
        _reference(retrain, "Retrain", tables, RETRAIN),
        *(_row(plan, each, tables, standing, kept[each.name], retrain[ranked].value, tuned) for each in methods),
        *(_missing(each, columns) for each in tuned if each["winner"] is None),
    ]
    document: LeagueDocument = {
        "schema": SCHEMA_VERSION,
        "recipe": plan.recipe.name,
        "league": plan.league.model_dump(mode="json"),
        "objective": plan.league.objective,
        "attack": plan.attack,
        "bound": bound,
        "columns": columns,
        "rows": sorted(found, key=_order),
        "pairs": [_pair(call) for call in standing.calls],
        "compared": len(pairs_of(field)),
        "winners": {g: n for g, n in standing.winners.items() if not n.startswith(NO_UNLEARN)},
        "tuned": list(tuned),
        "notes": _notes(plan, len(pairs_of(field)), looks),
        "cautions": _cautions(plan, retrain, methods, standing, ranked),
    }
    return document


def _known(earlier: Sequence[Call], field: Sequence[Contender]) -> list[Call]:
    """Returns the earlier calls between methods that are still ranked."""
    names = {contender.name for contender in field}
    return [call for call in earlier if call.better in names and call.worse in names]


def rise(each: Finalist, nothing: Row) -> Measure:
    """Returns by how many points the test error rises over no unlearning, original by original."""
    return each.metric("error_test").minus(nothing["error_test"])


def _within(each: Finalist, nothing: Row, bound: float | None) -> bool | None:
    found = rise(each, nothing).value
    if bound is None or found is None:
        return None
    return within(found, bound)


def _columns(plan: LeaguePlan, rows: Sequence[Row]) -> list[str]:
    known = {name for row in rows for name, measure in row.metrics.items() if measure.known}
    primary = [metric_name(plan.attack, "auc")]
    return [
        name for name in dict.fromkeys((*primary, *COLUMNS)) if name in known or name in ("average_gap", "tug_of_war")
    ]


def _value(name: str, row: Row, retrain: Row, plan: LeaguePlan) -> Measure:
    if name == "average_gap":
        return average_gap(row, retrain, metric_name(plan.attack, "auc"))
    return tug_of_war(row, retrain) if name == "tug_of_war" else row[name]


def _column(
    name: str, plan: LeaguePlan, nothing: Row, retrain: Row, methods: Sequence[Finalist]
) -> dict[str, LeagueCell]:
    """Returns a column: each number beside what retrained models show by chance, after Holm over
    the methods."""
    theirs = _value(name, retrain, retrain, plan)
    band = None if name in NO_BAND else Band.of(theirs, retrain.models)
    values = {NO_UNLEARN: _value(name, nothing, retrain, plan)}
    values |= {each.name: over_seeds([_value(name, row, retrain, plan) for row in each.rows]) for each in methods}
    models = {each.name: min(row.models or 0 for row in each.rows) for each in methods}
    models[NO_UNLEARN] = nothing.models or 0
    tested = [key for key, measure in values.items() if band is not None and measure.known and models[key]]
    chances = [band.p_value(float(values[key].value or 0.0), models[key]) for key in tested] if band else []
    adjusted = dict(zip(tested, holm(chances), strict=True))
    found = {}
    for key, measure in values.items():
        limits = None if band is None or not models[key] else list(band.interval(models[key]))
        found[key] = _cell(measure, limits, adjusted.get(key))
    own = None if band is None else list(band.interval(band.models))
    found[RETRAIN] = _cell(theirs, own, None)
    return found


def _cell(measure: Measure, band: Sequence[float] | None, p: float | None) -> LeagueCell:
    return {
        "value": measure.value,
        "low": measure.low,
        "high": measure.high,
        "band": band,
        "p": p,
        "outside": None if p is None else p < LEVEL,
    }


def _reference(row: Row, title: str, tables: Mapping[str, Mapping[str, LeagueCell]], name: str) -> LeagueRow:
    found = _without_place(row.method, title, {column: cells[name] for column, cells in tables.items()})
    verdict = row.judged.word if row.judged is not None else ""
    return {**found, "params": {}, "seeds": 1, "models": row.models, "verdict": verdict, "why": row.error}


def _missing(tuned: Tuned, columns: Sequence[str]) -> LeagueRow:
    """Returns the row of a method none of whose settings could be measured."""
    found = _without_place(tuned["method"], tuned["title"], dict.fromkeys(columns, _cell(Measure(None), None, None)))
    access = METHODS[tuned["method"]].access
    return {**found, "group": GROUPS[access], "access": access, "why": tuned["why"]}


def _without_place(method: str, title: str, cells: dict[str, LeagueCell]) -> LeagueRow:
    return {
        "method": method,
        "title": title,
        "group": REFERENCE,
        "access": "",
        "validation": False,
        "watched": "",
        "params": None,
        "seeds": 0,
        "models": None,
        "rank": None,
        "rank_high": None,
        "distance": None,
        "beats_nothing": None,
        "within_bound": None,
        "stopped_early": False,
        "cells": cells,
        "spread": {"models": None, "seeds": None, "from_seeds": None, "worst_model": None, "worst_value": None},
        "verdict": "",
        "why": "",
    }


def _row(
    plan: LeaguePlan,
    each: Finalist,
    tables: Mapping[str, Mapping[str, LeagueCell]],
    standing: Standing,
    within: bool | None,
    reference: float | None,
    tuned: Sequence[Tuned],
) -> LeagueRow:
    first = each.rows[0]
    ranked = ranked_by(plan.league.objective, plan.attack)
    spread = spread_of([row[ranked] for row in each.rows], reference)
    is_ranked = any(contender.name == each.name for contender in standing.contenders)
    place = standing.place(each.name) if is_ranked else None
    value = each.metric(ranked).value
    history = next(one for one in tuned if one["method"] == each.name)
    why = next((row.error for row in each.rows if not row.done), "")
    if not why and within is False:
        why = "its test error rises beyond the bound"
    words = {row.judged.word for row in each.rows if row.judged is not None}
    nothing = f"{NO_UNLEARN} {each.group}"
    return {
        "method": each.name,
        "title": first.title or each.name,
        "group": each.group,
        "access": first.access,
        "validation": first.validation,
        "watched": first.watched,
        "params": {k: v for k, v in (history["winner"] or {}).items() if k != "name"},
        "seeds": len(each.rows),
        "models": min((row.models or 0 for row in each.rows), default=None),
        "rank": None if place is None else place.low,
        "rank_high": None if place is None else place.high,
        "distance": _distance(plan, value, reference),
        "beats_nothing": None
        if place is None
        else any((call.better, call.worse) == (each.name, nothing) for call in standing.calls),
        "within_bound": within,
        "stopped_early": each.name in plan.league.measured,
        "cells": {column: cells[each.name] for column, cells in tables.items()},
        "spread": {
            "models": spread.models,
            "seeds": spread.seeds,
            "from_seeds": spread.from_seeds,
            "worst_model": None if spread.worst is None else spread.worst[0],
            "worst_value": None if spread.worst is None else spread.worst[1],
        },
        "verdict": words.pop() if len(words) == 1 else "undecided" if words else "",
        "why": why,
    }


def _distance(plan: LeaguePlan, value: float | None, reference: float | None) -> float | None:
    if value is None:
        return None
    if plan.league.objective == "epsilon":
        return 1.0 - value
    if plan.league.objective == "klom":
        return value
    return None if reference is None else abs(value - reference)


def _order(row: LeagueRow) -> tuple[int, int, int, int, float, str]:
    """References first, then groups from little data to much; ranked rows by place, then by
    distance."""
    groups = (REFERENCE, *dict.fromkeys(GROUPS.values()))
    rank, high = row["rank"], row["rank_high"]
    distance = row["distance"]
    return (
        groups.index(row["group"]),
        0 if rank is not None else 1 if row["within_bound"] is False else 2,
        rank or 0,
        high or 0,
        float("inf") if distance is None else distance,
        row["method"],
    )


def _pair(call: Call) -> LeaguePair:
    return {"better": call.better, "worse": call.worse, "adjusted": call.adjusted, "look": call.look}


def _notes(plan: LeaguePlan, pairs: int, looks: int) -> list[str]:
    budget = plan.league.budget
    number = {
        "auc_gap": "the distance of the attack's AUC to Retrain's",
        "klom": "KLoM at the 95th percentile",
        "epsilon": "1 − the forgetting-quality score",
    }[plan.league.objective]
    notes = [
        f"Every method was tuned with the same budget: up to {budget.settings} settings, the best on up to {budget.models} models of "
        "the validation fold. The table is measured on the test fold, which tuning never saw.",
        f"Places are by {number}. Methods that cannot be told apart share a place.",
        f"{pairs} pairs were compared and corrected together after Holm at 5 %"
        + (f", with 2.5 % for each of {looks} looks." if looks > 1 else "."),
        "The band is what retrained models show by chance, at 95 %. A number outside it is marked after Holm over its column.",
        "Methods that see retain data do not compete with methods that do not.",
    ]
    if plan.league.bound is not None:
        notes.append(
            f"A method whose test error rises by more than {bound_of(plan.league):g} points over no unlearning has no place."
        )
    return notes


def _cautions(
    plan: LeaguePlan, retrain: Row, methods: Sequence[Finalist], standing: Standing, ranked: str
) -> list[str]:
    """Returns what may not be concluded, for this table."""
    found = []
    models = plan.recipe.shadows.split[2]
    if models < FEW_MODELS:
        found.append(
            f"{models} models under test tell only large differences apart. A shared place does not mean that methods are equal. "
            "`orchestrator plan RECIPE --detect GAP` says how many models a gap needs."
        )
    else:
        found.append(
            "A shared place does not mean that methods are equal: the difference may be too small for so many models."
        )
    for group in sorted({contender.group for contender in standing.contenders}):
        if group not in standing.winners:
            found.append(f"Group {group!r} has no winner: no method is surely nearer to Retrain than all others.")
        elif standing.winners[group].startswith(NO_UNLEARN):
            found.append(f"In group {group!r} every method is surely farther from Retrain than doing nothing.")
    if plan.league.seeds == 1:
        found.append(
            "One unlearning seed: the intervals hold the luck of the trained models, and of one seed for each."
        )
    found += [
        f"{plan.recipe.section('dataset').get('source')} with {plan.recipe.model.name} and this forget set only: another data set, model "
        "or forget set may order methods otherwise.",
        f"The attacker is {ranked.partition('/')[0] if '/' in ranked else plan.attack}: an attack that is not in the table may see what these do not.",
        "More settings or wider ranges may improve a method: the table compares methods as tuned with this budget.",
    ]
    return found
