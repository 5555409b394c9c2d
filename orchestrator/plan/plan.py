"""From a recipe to units: everything that will run, with its key, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from attack import ATTACKS
from unlearn.methods.base import Method
from unlearn.moments.fisher import VERSIONS

from ..base.collection import collection_paused
from ..base.errors import Fault, RecipeError
from ..base.values import Json, Object
from ..recipe.choices import Point
from ..recipe.options import fault_from, settings_of
from ..recipe.sections import Recipe
from .code import code_of
from .data import ExperimentData
from .kept import unseen_units
from .measures import attackers, scored, with_collateral, with_distances, with_traces
from .rows import Plan, Row, distinct, short
from .selection import selection_units
from .specs import (
    BasisSpec,
    FisherSpec,
    MomentsSpec,
    OutputsSpec,
    UnlearnSpec,
)
from .steps import grouped_steps
from .trained import train_unit
from .units import Label, Unit, default_threads, seed_for

FOLDS = ("train", "validation", "test")


def make_plan(recipe: Recipe, data: ExperimentData) -> Plan:
    """Returns the plan of `recipe` on `data`. Pure: the same recipe and data give the same plan
    anywhere."""
    with collection_paused():  # of a hundred thousand units, a third of the time
        return _Planner(recipe, data).plan()


def with_given(plan: Plan, data: ExperimentData, given: Sequence[Unit], points: Sequence[Point]) -> Plan:
    """Returns the plan with models of the user's own: their outputs, and the first one unlearned by
    each of `points`.

    They are units of the plan, but of no fold: no attacker is fitted on them and no row holds them.
    """
    planner = _Planner(plan.recipe, data)
    made = [planner.unlearn(given[0], point) for point in points]
    outputs = [planner.own_outputs(model) for model in (*given, *made)]
    stages = {name: list(units) for name, units in plan.stages.items()}
    stages["unlearn"] += made
    stages["outputs"] += outputs
    return replace(plan, stages={name: distinct(units) for name, units in stages.items()})


def check_method(method: Method, recipe: Recipe, data: ExperimentData) -> None:
    """Refuses, before anything runs, what the method cannot forget and steps that the scenario has
    not; raises `RecipeError`."""
    try:
        method.check(data.split)
    except ValueError as error:
        of_scenario = str(error).startswith("scenario.")
        where = "scenario" if of_scenario else "methods"
        values = recipe.section("scenario") if of_scenario else settings_of(method)
        raise RecipeError([fault_from(error, where, values)], recipe.name) from None
    try:
        if method.in_steps:
            grouped_steps(data, method.steps().size)
    except ValueError as error:
        raise RecipeError([fault_from(error, "methods", settings_of(method))], recipe.name) from None


@dataclass(frozen=True)
class _Applied:
    """What a setting of a method is on any model.

    **Arguments:**

    - `title`: method and settings, as a person calls them. `seed`: of the method's settings.
    - `access`, `statistic`, `clean_moments`, `stride_one`: as the method declares them. `in_steps`:
      from running moments.
    - `cost`: about the images that one model is taken through.
    """

    title: str
    seed: Json
    code: str
    access: str
    statistic: str
    in_steps: bool
    clean_moments: bool
    stride_one: bool
    cost: float


def _kept_classes(data: ExperimentData) -> tuple[int, ...]:
    """Returns the class of each column of outputs; empty where none is removed.

    Outputs stored before they told have other keys, and are never taken for these.
    """
    removed = len(data.kept_classes) < data.dataset.num_classes
    return tuple(int(kept) for kept in data.kept_classes) if removed else ()


class _Planner:
    def __init__(self, recipe: Recipe, data: ExperimentData):
        self.recipe = recipe
        self.data = data
        self.training = recipe.training
        # Asked of every model, and the same for all: made once.
        everything, retain = len(data.dataset.train.labels), data.split.retain
        self.trained_on = {"original": ("all", everything), "retrained": (data.indices_digest(retain), len(retain))}
        self.applied: dict[int, tuple[Point, _Applied]] = {}
        self.statistics: dict[tuple[str, str], Unit] = {}  # by what they are and the model's key
        self.classes = _kept_classes(data)
        self.threads = default_threads(recipe.resources.cpus_per_unit)
        self.originals = [self._train("original", index) for index in range(recipe.shadows.originals)]
        self.retrained = [self._train("retrained", index) for index in range(recipe.shadows.retrained)]
        # Retrain is measured like any other method, on models that the attacker has never seen in
        # any fold.
        first = recipe.shadows.retrained
        self.references = [self._train("retrained", first + i, "retrain") for i in range(recipe.shadows.split[2])]

    def plan(self) -> Plan:
        population = tuple(
            self._outputs(unit, role, fold)
            for role, units in (("original", self.originals), ("retrained", self.retrained))
            for unit, fold in zip(units, self._folds() if units else (), strict=True)
        )
        fitted = attackers(self.recipe, population)
        rows: list[Row] = []
        test_originals = [u for u, fold in zip(self.originals, self._folds(), strict=True) if fold == "test"]
        no_unlearn = tuple(o for o in population if o.label.role == "original" and o.label.fold == "test")
        rows.append(Row("no_unlearn", {}, no_unlearn, tuple(test_originals)))
        references = tuple(self._outputs(u, "unlearned", "test", "retrain") for u in self.references)
        rows.append(Row("retrain", {}, references, tuple(self.references)))
        rows.extend(self._method_row(point) for point in self.recipe.methods)
        rows = [replace(row, unseen=self._unseen(row.targets)) for row in rows]
        z = self._unseen(population) if any(ATTACKS[a.name].takes_population for a in self.recipe.attacks) else ()
        rows = [scored(self.recipe, row, population, references, fitted, z) for row in rows]
        rows = with_traces(self.recipe, with_distances(self.recipe, rows, population), population)
        rows = with_collateral(self.recipe, self.data, rows, population)
        unlearn = [u for row in rows for u in row.producers if u.kind == "unlearn"]
        unlearn += [n for row in rows for o in row.companions for n in o.needs if n.kind == "unlearn"]
        outputs = [*population, *(o for row in rows for o in (*row.targets, *row.companions)), *z]
        outputs += [o for row in rows for o in row.unseen]
        outputs += [o for row in rows if row.collateral is not None for o in row.collateral.needs]
        chosen_by = selection_units(self.recipe, self.data.dataset)
        stages = {
            "train": distinct([*self.originals, *self.retrained, *self.references, *chosen_by]),
            "unlearn": distinct(unlearn),
            "outputs": distinct(outputs),
            "attack": distinct([unit for units in fitted.values() for unit in units]),
            "score": distinct([unit for row in rows for unit in row.measures]),
        }
        return Plan(self.recipe, stages, tuple(rows), population)

    def _folds(self) -> list[str]:
        return [fold for fold, count in zip(FOLDS, self.recipe.shadows.split, strict=True) for _ in range(count)]

    def _train(self, role: str, index: int, method: str = "") -> Unit:
        indices, images = self.trained_on[role]
        name = f"{role}-{index:03d}" if not method else f"{method}-{index - self.recipe.shadows.retrained:03d}"
        labels = self.data.labels_digest
        return train_unit(self.recipe, self.data.digest, indices, images, role, index, name, labels=labels)

    def _method_row(self, point: Point) -> Row:
        everything = self.recipe.shadows.unlearn == "all"
        early = {} if self.recipe.league is None else self.recipe.league.measured
        most = early.get(point.name, self.recipe.shadows.split[2])
        targets: list[Unit] = []
        producers, companions = [], []
        for original, fold in zip(self.originals, self._folds(), strict=True):
            if fold != "test" and not everything:
                continue
            if fold == "test" and len(targets) >= most:
                continue  # a league that knew the method's place after so many models
            unit = self.unlearn(original, point)
            output = self._outputs(unit, "unlearned", fold, point.name, point.params)
            if fold == "test":
                producers.append(unit)
                targets.append(output)
            else:
                companions.append(output)
        return Row(point.name, point.params, tuple(targets), tuple(producers), tuple(companions), unlearns=point.method)

    def unlearn(self, original: Unit, point: Point) -> Unit:
        """One method with its settings, on one model."""
        applied, method = self._applied(point), point.method
        moments = basis = fisher = None
        if applied.in_steps:
            # Incremental: every step subtracts its own forget set, with the model of that step,
            # from running moments.
            moments = self._moments(original, applied.stride_one)
        elif applied.access == "moments":
            basis = self._basis(original, applied.clean_moments, applied.stride_one)
        elif applied.access == "fisher":
            fisher = self._fisher(original, applied.statistic)
        spec = UnlearnSpec(
            model=original.key,
            split=self.data.split_digest,
            method=point.name,
            params=method,
            seed=seed_for(self.recipe.seed, "unlearn", original.label.source, applied.seed),
            threads=self.threads,
            moments="" if moments is None else moments.key,
            basis="" if basis is None else basis.key,
            fisher="" if fisher is None else fisher.key,
            code=applied.code,
        )
        needs = (original, *(unit for unit in (moments, basis, fisher) if unit is not None))
        label = Label(method=point.name, params=point.params, source=original.label.source)
        return Unit(spec, f"{applied.title} {original.name}", label, needs, applied.cost)

    def _applied(self, point: Point) -> _Applied:
        """Returns what a setting is on any model: asked once of each, and checked then."""
        known = self.applied.get(id(point))
        if known is None:
            known = self.applied[id(point)] = (point, self._apply(point))
        return known[1]

    def _apply(self, point: Point) -> _Applied:
        method, split = point.method, self.data.split
        check_method(method, self.recipe, self.data)
        wanted = method.needs()
        return _Applied(
            f"{point.name}{short(point.written)}",
            settings_of(method).get("seed", 0),
            "; ".join(filter(None, (code_of(type(part)) for part in method.parts()))),
            wanted.access,
            wanted.statistic,
            wanted.access == "moments" and len(split.steps) > 1,
            wanted.clean_moments,
            wanted.stride_one,
            (int(len(split.retain) * wanted.retain) or len(split.forget)) * max(1, method.passes()),
        )

    def _moments(self, original: Unit, stride_one: bool) -> Unit:
        """Second moments of all training data: they belong to a model and its data, whatever will
        be forgotten."""
        what = f"moments {stride_one}"
        known = self.statistics.get((what, original.key))
        if known is None:
            spec = MomentsSpec(original.key, self.training.augment, self.data.digest, stride_one)
            known = Unit(spec, f"moments {original.name}", Label(source=original.label.source), (original,))
            self.statistics[what, original.key] = known
        return known

    def _basis(self, original: Unit, clean: bool, stride_one: bool) -> Unit:
        """Their decomposition without the forget set: one for every γ, criterion and top-k."""
        what = f"basis {clean} {stride_one}"
        known = self.statistics.get((what, original.key))
        if known is None:
            label, split = Label(source=original.label.source), self.data.split_digest
            if clean:
                spec = BasisSpec("", original.key, split, self.training.augment, clean=True, stride_one=stride_one)
                needs, cost = [original], float(len(self.data.split.retain))
            else:
                moments = self._moments(original, stride_one)
                # As published: whole classes are taken off as they were summed, samples as they
                # are.
                augment = self.training.augment if self.data.split.forget_classes else None
                spec = BasisSpec(moments.key, original.key, split, augment)
                needs, cost = [moments, original], 1.0
            known = Unit(spec, f"basis {original.name}", label, tuple(needs), cost)
            self.statistics[what, original.key] = known
        return known

    def _fisher(self, original: Unit, statistic: str) -> Unit:
        """A Fisher diagonal of all training data: one for every method and setting that asks for
        it."""
        known = self.statistics.get((statistic, original.key))
        if known is None:
            spec = FisherSpec(original.key, self.data.digest, statistic, VERSIONS.get(statistic, ""))
            cost = len(self.data.dataset.train.labels)
            label = Label(source=original.label.source)
            known = Unit(spec, f"{statistic} {original.name}", label, (original,), cost)
            self.statistics[statistic, original.key] = known
        return known

    def _outputs(self, model: Unit, role: str, fold: str, method: str = "", params: Object | None = None) -> Unit:
        label = Label(role, fold, method, params or {}, model_id=model.name, source=model.label.source)
        return self._outputs_unit(model, label, fold == "test")

    def own_outputs(self, model: Unit) -> Unit:
        """Outputs and errors of a model of the user's own, or of one made from it."""
        label = Label("given", model_id=model.name, source=model.label.source)
        return self._outputs_unit(model, label, measured=True)

    def _outputs_unit(self, model: Unit, label: Label, measured: bool) -> Unit:
        data = self.data
        spec = OutputsSpec(model.key, data.split_digest, False, self.classes)
        spec = spec.with_errors() if measured else spec
        cost = len(data.split.forget) + (len(data.split.retain) + len(data.split.test) if measured else 0)
        return Unit(spec, f"outputs {model.name}", label, (model,), cost)

    def _unseen(self, outputs: Sequence[Unit]) -> tuple[Unit, ...]:
        return unseen_units(self.recipe, self.data, outputs)


def check_stored_models(plan: Plan, stored: int) -> None:
    """Raises `RecipeError` where the recipe wants only stored models and there are too few of
    them."""
    wanted = len(plan.stages["train"])
    if plan.recipe.shadows.reuse_only and stored < wanted:
        fault = Fault(
            "shadows.reuse_only",
            True,
            f"{wanted} models are asked for, but only {stored} of them are stored",
            "fewer originals and retrained, the --store that holds them, or reuse_only: false",
        )
        raise RecipeError([fault], plan.recipe.name)
