"""From a recipe's `search` section to settings and to the units that measure them, before anything
runs.

Every setting is measured on originals of the validation fold, against retrained models of that
fold. Units of the test fold are not part of a search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from attack import ATTACKS
from attack.metrics.row import PRIMARY

from ..base.errors import Fault, RecipeError
from ..base.values import Object, digest
from ..recipe import sweep
from ..recipe.choices import Choice
from ..recipe.recipe import check_recipe
from ..recipe.sections import Recipe, Search
from .data import ExperimentData
from .plan import Plan, Row, make_plan
from .sides import judged_ones, labelled
from .specs import DistanceSpec, OutputsSpec, ScoreSpec
from .units import Unit

FOLD = "validation"
BOUND: Literal["error_test_increase"] = "error_test_increase"
FEWEST_MODELS = 2
# of an outputs unit: on the half of the test images that results leave out
MEASURED_ERROR = "error_val"


@dataclass(frozen=True)
class Step:
    """One more model measured: it is unlearned, its outputs are made, and all models so far are
    scored together.

    `distance`: how far the models so far are from retrained ones. None where a search does not ask
    for it, or there is one model.
    """

    unlearn: Unit
    outputs: Unit
    score: Unit
    distance: Unit | None = None

    def units(self) -> tuple[Unit, ...]:
        found = (self.unlearn, self.outputs, self.score)
        return found if self.distance is None else (*found, self.distance)


@dataclass(frozen=True)
class Setting:
    """One point of the search: its parameters and a step for each model of the validation fold."""

    params: Object
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class SearchPlan:
    """Everything that a search executes.

    - `plan`: of the settings as methods; only units outside its test fold are used.
    - `population`: outputs of the models that attackers are fitted on.
    - `references`: outputs and errors of the validation fold's originals before unlearning.
    - `shared`: moments and bases, one for each original.
    - `baseline`: the score of no unlearning. `key`: of the search, empty where settings are planned
        alone.
    """

    plan: Plan
    settings: tuple[Setting, ...]
    models: tuple[Unit, ...]
    population: tuple[Unit, ...]
    references: tuple[Unit, ...]
    attackers: tuple[Unit, ...]
    shared: tuple[Unit, ...]
    baseline: Unit
    key: str = ""

    def units(self) -> list[Unit]:
        """Returns all units that the search may execute."""
        steps = [unit for setting in self.settings for step in setting.steps for unit in step.units()]
        fixed = (*self.models, *self.population, *self.references, *self.attackers, *self.shared, self.baseline)
        return list(dict.fromkeys([*fixed, *steps]))


def check_search(recipe: Recipe) -> Search:
    """Returns the recipe's `search` section; raises `RecipeError` naming every fault of it."""
    search = recipe.search
    if search is None:
        fault = Fault("search", None, "missing", "method, samples, objective, bound, grace, reduction")
        raise RecipeError([fault], recipe.name)
    found = _method_faults(recipe, search) + _fold_faults(recipe, search)
    if search.bound is not None and not search.bound:
        found.append(Fault("search.bound", {}, "says nothing", f"{BOUND}: a number of points, or null for none"))
    if primary_attack(recipe) is None:
        names = [attack.name for attack in recipe.attacks]
        found.append(Fault("attacks", names, "a search needs an attack that is fitted once for all settings", PRIMARY))
    if found:
        raise RecipeError(found, recipe.name)
    return search


def _method_faults(recipe: Recipe, search: Search) -> list[Fault]:
    if "samples" in search.method:
        value = search.method["samples"]
        return [Fault("search.method.samples", value, "belongs one level up", "search.samples")]
    points = draw(recipe, search)
    if len(points) < 2:
        return [
            Fault(
                "search.method",
                dict(search.method),
                "there is one setting only, nothing to search",
                "uniform, loguniform, grid or zip in place of a value",
            )
        ]
    return _faults_of(recipe, [{"name": search.method["name"], **params} for params in points])


def _faults_of(recipe: Recipe, methods: list[dict[str, object]]) -> list[Fault]:
    """Returns what is wrong with `methods` in this recipe, as faults of `search.method`."""
    document = {**recipe.document, "methods": methods}
    try:
        check_recipe(document, recipe.name)
    except RecipeError as error:
        renamed = []
        for fault in error.faults:
            parts = fault.field.split(".")
            own = parts[0] == "methods"
            renamed.append(replace(fault, field=".".join(["search.method", *parts[2:]])) if own else fault)
        return list({str(fault): fault for fault in renamed}.values())
    return []


def _fold_faults(recipe: Recipe, search: Search) -> list[Fault]:
    split = recipe.shadows.split
    if split[1] < FEWEST_MODELS:
        return [
            Fault(
                "shadows.split",
                list(split),
                f"a search measures settings on the validation fold, which has {split[1]} models of a kind",
                f"at least {FEWEST_MODELS} in the middle, and better 5 or more",
            )
        ]
    if search.grace > split[1]:
        return [Fault("search.grace", search.grace, "more models than the validation fold has", f"at most {split[1]}")]
    return []


def bound_of(search: Search) -> float | None:
    """Returns the most that the error may rise by, in points; None for any rise."""
    return None if search.bound is None else float(search.bound[BOUND])


def primary_attack(recipe: Recipe) -> Choice | None:
    """Returns the attack that settings are compared by: XGBoost's, else the first that is fitted
    once on shadow models."""
    fitted = [attack for attack in recipe.attacks if ATTACKS[attack.name].candidates()]
    return min(fitted, key=lambda attack: attack.name != PRIMARY, default=None)


def draw(recipe: Recipe, search: Search) -> list[dict[str, object]]:
    """Returns the settings to try, at most `search.samples`, without duplicates; they depend on the
    recipe alone.

    Random fields are drawn as often as the samples allow for each point of the grid. A grid may
    have more points than there are samples. Then the seed chooses as many as there are samples.
    """
    options = {k: v for k, v in search.method.items() if k != "name"}
    grid = len(sweep.expand({**options, "samples": 1}, recipe.seed, 0))
    points = sweep.expand({**options, "samples": max(1, search.samples // grid)}, recipe.seed, 0)
    if len(points) > search.samples:
        generator = np.random.default_rng([recipe.seed, len(points)])
        points = [points[i] for i in sorted(generator.choice(len(points), search.samples, replace=False))]
    distinct: list[dict[str, object]] = []
    for point in points:
        if point not in distinct:
            distinct.append(point)
    return distinct


def plan_search(recipe: Recipe, data: ExperimentData) -> SearchPlan:
    """Returns the settings of a checked recipe's search and their units. Pure, as `make_plan` is.

    **Raises:** `RecipeError` where the method does not fit the scenario.
    """
    search = check_search(recipe)
    methods = [{"name": search.method["name"], **params} for params in draw(recipe, search)]
    plan = plan_settings(recipe, data, methods)
    key = digest([search.model_dump(mode="json"), plan.baseline.key, [s.steps[-1].score.key for s in plan.settings]])
    return replace(plan, key=key)


def plan_settings(
    recipe: Recipe, data: ExperimentData, methods: Sequence[Mapping[str, object]], *, distances: bool = False
) -> SearchPlan:
    """Returns the units that measure `methods` on the validation fold, a step for each of its
    models. Pure.

    **Arguments:** `methods`: settings as a recipe gives them, no two alike. `distances`: also
    measure distances to retrained models.

    **Raises:** `RecipeError` where a method does not fit the scenario.
    """
    # Unlearning every original gives the plan that unlearns the validation fold, by the rules of
    # any run.
    primary = primary_attack(recipe)
    sections = {name: section for name, section in recipe.document.items() if name not in ("search", "league")}
    wide = check_recipe(
        {
            **sections,
            "methods": list(methods),
            "attacks": [] if primary is None else [primary.to_json()],
            "shadows": {**recipe.section("shadows"), "unlearn": "all"},
        },
        recipe.name,
    )
    plan = make_plan(wide, data)
    population = tuple(unit for unit in plan.population if unit.label.fold != "test")
    here = [unit for unit in population if unit.label.fold == FOLD]
    references = tuple(_with_errors(unit) for unit in here if unit.label.role == "original")
    negatives = tuple(unit for unit in here if unit.label.role == "retrained")
    rows = [row for row in plan.rows if row.method not in ("no_unlearn", "retrain")]
    settings = tuple(_setting(row, negatives, distances) for row in rows)
    baseline = _score(plan.rows[0], references, negatives)
    shared = [need for s in settings for step in s.steps for need in step.unlearn.needs if need.kind != "train"]
    return SearchPlan(
        plan=plan,
        settings=settings,
        models=tuple(unit.needs[0] for unit in population),
        population=population,
        references=references,
        attackers=plan.stages["attack"],
        shared=tuple(dict.fromkeys(shared)),
        baseline=baseline,
    )


def _setting(row: Row, negatives: tuple[Unit, ...], distances: bool) -> Setting:
    outputs = tuple(_with_errors(unit) for unit in row.companions if unit.label.fold == FOLD)
    steps = []
    for count, unit in enumerate(outputs, start=1):
        so_far = outputs[:count]
        distance = _distance(row, so_far, negatives[:count]) if distances and count > 1 else None
        steps.append(Step(unit.needs[0], unit, _score(row, so_far, negatives), distance))
    return Setting(row.params, tuple(steps))


def _distance(row: Row, outputs: tuple[Unit, ...], negatives: tuple[Unit, ...]) -> Unit | None:
    """Returns the row's distances, of these models and as many retrained ones of the fold."""
    if row.distance is None or not isinstance(row.distance.spec, DistanceSpec):
        return None
    mine, theirs = labelled(outputs), labelled(negatives)
    spec = replace(row.distance.spec, tested=mine, negative=theirs, models=mine, retrained=theirs, originals=())
    name = f"{row.distance.name}, {len(outputs)} of the validation fold"
    return replace(row.distance, spec=spec, name=name, needs=(*outputs, *negatives))


def _with_errors(outputs: Unit) -> Unit:
    """Returns the outputs unit of the same model that also measures its errors, as a run does for
    its test fold only."""
    if not isinstance(outputs.spec, OutputsSpec):
        raise TypeError(f"{outputs.name} is no unit of outputs")
    return replace(outputs, spec=outputs.spec.with_errors())


def _score(row: Row, positives: tuple[Unit, ...], negatives: tuple[Unit, ...]) -> Unit:
    """Returns the row's score, of these models instead of the test fold's."""
    score = row.scores[0]
    fitted = tuple(unit for unit in score.needs if unit.kind == "attack")
    if not isinstance(score.spec, ScoreSpec):
        raise TypeError(f"{score.name} is no score")
    spec = replace(score.spec, positive=judged_ones(positives), negative=judged_ones(negatives))
    name = f"{score.name}, {len(positives)} of the validation fold"
    return replace(score, spec=spec, name=name, needs=(*fitted, *positives, *negatives))
