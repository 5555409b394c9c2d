"""From a recipe's `league` section to the methods that compete and the settings that are tried
first.

What a recipe says of a method is held in every setting. Its ranges replace those that the method
declares. Everything else that the method declares is searched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from unlearn import METHODS
from unlearn.methods.base import Choice as Values
from unlearn.methods.base import Method, Range

from ..base.errors import Fault, RecipeError, nearest
from ..base.values import Json, plain
from ..recipe import sweep
from ..recipe.checks import point_faults
from ..recipe.choices import Point
from ..recipe.options import canonical_options, method_of
from ..recipe.recipe import changed
from ..recipe.sections import League, Recipe
from .search import FEWEST_MODELS, FOLD, primary_attack

Space = Mapping[str, Range | Values]
# What methods of one group may see: those of different groups do not compete.
GROUPS = {
    "forget": "forget",
    "moments": "statistics",
    "fisher": "statistics",
    "retain_share": "retain",
    "retain": "retain",
}
DEFAULTS = "its default settings"


@dataclass(frozen=True)
class Entry:
    """A method that competes.

    **Arguments:**

    - `name`: of the method. `title`: its name in print.
    - `held`: options that every setting has. `space`: what is searched.
    - `starts`: the settings that are tried first, with where each comes from.
    """

    name: str
    title: str
    held: Mapping[str, Json]
    space: Space
    starts: tuple[tuple[str, Mapping[str, Json]], ...] = ()


@dataclass(frozen=True)
class Rung:
    """A step of the tuning: the best `settings` of a method are measured on `models` models."""

    settings: int
    models: int


@dataclass(frozen=True)
class LeaguePlan:
    """What a league will do, before anything runs.

    **Arguments:** `rungs`: from all settings on few models to few settings on all. `entries`: the
    methods, in the recipe's order.
    """

    recipe: Recipe
    league: League
    entries: tuple[Entry, ...]
    rungs: tuple[Rung, ...]
    attack: str = field(default="")


def check_league(recipe: Recipe) -> LeaguePlan:
    """Returns the league that a recipe asks for; raises `RecipeError` naming every fault of it."""
    league = recipe.league
    if league is None:
        allowed = "budget, objective, bound, seeds, reduction, looks"
        raise RecipeError([Fault("league", None, "missing", allowed)], recipe.name)
    found = _fold_faults(recipe, league)
    written = [each for each in _listed(recipe) if isinstance(each, Mapping)]
    names = [str(each["name"]) for each in written]
    if not names:
        found.append(Fault("methods", [], "nobody competes", "methods by name, or {name: all}"))
    for index, name in enumerate(names):
        if name in names[:index]:
            found.append(
                Fault(f"methods.{index}.name", name, "competes twice", "each method once; a range for its options")
            )
    attack = primary_attack(recipe)
    if attack is None:
        known = [each.name for each in recipe.attacks]
        found.append(
            Fault("attacks", known, "a league needs an attack that is fitted once for all settings", "xgboost")
        )
    unknown = [name for name in league.measured if name not in names]
    found += [
        Fault(
            f"league.measured.{name}",
            league.measured[name],
            "no such method here",
            ", ".join(names),
            nearest(name, names),
        )
        for name in unknown
    ]
    if found or attack is None:
        raise RecipeError(found, recipe.name)
    entries = tuple(_entry(each, index) for index, each in enumerate(written))
    return LeaguePlan(recipe, league, entries, rungs_of(league), attack.name)


def _listed(recipe: Recipe) -> list[object]:
    methods = recipe.document["methods"]
    return list(methods) if isinstance(methods, list) else []


def _fold_faults(recipe: Recipe, league: League) -> list[Fault]:
    here, split = recipe.shadows.split[1], list(recipe.shadows.split)
    found = []
    if here < FEWEST_MODELS:
        found.append(
            Fault("shadows.split", split, f"the {FOLD} fold has {here} models of a kind", f"at least {FEWEST_MODELS}")
        )
    elif league.budget.models > here:
        allowed = f"at most {here}, the middle number of shadows.split"
        found.append(
            Fault("league.budget.models", league.budget.models, f"more models than the {FOLD} fold has", allowed)
        )
    least = first_models(league)
    if league.budget.models < least:
        allowed = f"at least {least}"
        found.append(
            Fault("league.budget.models", league.budget.models, f"{league.objective} compares more models", allowed)
        )
    if league.bound is not None and not league.bound:
        found.append(
            Fault("league.bound", {}, "says nothing", "error_test_increase: a number of points, or null for none")
        )
    if recipe.shadows.split[2] < FEWEST_MODELS:
        allowed = f"at least {FEWEST_MODELS}; 8 or more to tell methods apart"
        found.append(Fault("shadows.split", split, "one model under test has no spread", allowed))
    return found


def first_models(league: League) -> int:
    """Returns on how many models a setting is measured first: a distance needs two."""
    return 1 if league.objective == "auc_gap" else 2


def rungs_of(league: League) -> tuple[Rung, ...]:
    """Returns the steps of successive halving (Jamieson and Talwalkar, AISTATS 2016).

    It waits for all settings of a step, so the result does not depend on which worker is faster.
    ASHA decides by who comes first, and a league that was killed could end with another winner.
    """
    budget, models = league.budget, first_models(league)
    settings = budget.settings
    found = [Rung(settings, min(models, budget.models))]
    while found[-1].models < budget.models:
        settings = max(1, math.ceil(settings / league.reduction))
        models = min(budget.models, max(models + 1, math.ceil(models * league.reduction)))
        found.append(Rung(settings, models))
    return tuple(found)


def bound_of(league: League) -> float | None:
    """Returns the most that the test error may rise by, in points; None for any rise."""
    return None if league.bound is None else league.bound["error_test_increase"]


def _entry(written: Mapping[str, object], index: int) -> Entry:
    name = str(written["name"])
    method = METHODS[name]
    given = {key: value for key, value in written.items() if key not in ("name", "samples")}
    ranges = {key: value for key, value in given.items() if sweep.is_sweep(value)}
    held = {key: plain(value) for key, value in given.items() if key not in ranges}
    declared = {key: values for key, values in method.space().items() if key not in held}
    asked = {key: _range(value, key, index) for key, value in ranges.items()}
    return Entry(name, method.card.title or name, held, {**declared, **asked}, _starts(method, held, asked))


def _starts(
    method: type[Method], held: Mapping[str, Json], ranges: Space
) -> tuple[tuple[str, Mapping[str, Json]], ...]:
    """Returns published settings, then the defaults; what the recipe holds or ranges over wins."""
    published = [(f"preset {label}", preset.values) for label, preset in method.presets.items()]
    found: list[tuple[str, Mapping[str, Json]]] = []
    for label, given in (*published, (DEFAULTS, {})):
        values = {key: plain(value) for key, value in given.items()}
        inside = {key: _inside(values.get(key), space) for key, space in ranges.items()}
        found.append((label, {**values, **inside, **held}))
    return tuple(found)


def _inside(value: Json, space: Range | Values) -> Json:
    """Returns a value that lies in a range; else the middle of it, or the first of a list."""
    if isinstance(space, Values):
        known = plain(list(space.values))
        assert isinstance(known, list)
        return value if value is not None and value in known else known[0]
    if isinstance(value, int | float) and space.low <= value <= space.high:
        return value
    middle = math.sqrt(space.low * space.high) if space.log else (space.low + space.high) / 2.0
    return float(f"{middle:.6g}")


def _range(value: object, name: str, index: int) -> Range | Values:
    assert isinstance(value, Mapping)
    [(kind, body)] = value.items()
    if kind == "uniform":
        return Range(float(body[0]), float(body[1]))
    if kind == "loguniform":
        return Range(float(body[0]), float(body[1]), log=True)
    if kind == "grid":
        return Values(tuple(body))
    field_name = f"methods.{index}.{name}.{kind}"
    raise RecipeError([Fault(field_name, body, "a league varies each option for itself", "grid, uniform, loguniform")])


def point_of(recipe: Recipe, name: str, options: Mapping[str, Json]) -> Point | None:
    """Returns the setting of a method; None where its options cannot stand together."""
    training = recipe.section("training")
    inherited = {key: training[key] for key in sorted(METHODS[name].inherits & set(training))}
    if point_faults(name, {**inherited, **options}, name):
        return None
    written = canonical_options(METHODS[name], options, sweep.each)
    method = method_of(name, {**inherited, **written})
    return Point.of(name, method, written)


def chosen(recipe: Recipe, methods: list[dict[str, Json]], measured: Mapping[str, int]) -> Recipe:
    """Returns the recipe that measures the winners on the test fold.

    **Arguments:** `measured`: models under test of methods whose place is certain already.
    """
    section = recipe.section("league")
    return changed(recipe, methods=methods, league={**section, "measured": dict(measured)})
