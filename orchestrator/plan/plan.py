"""From a recipe to units: everything that will run, with its key, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attack import ATTACKS
from unlearn.methods.base import Method

from ..base.errors import Fault, RecipeError
from ..base.values import Object
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
    planner = _Planner(recipe, data)
    return planner.plan()


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


class _Planner:
    def __init__(self, recipe: Recipe, data: ExperimentData):
        self.recipe = recipe
        self.data = data
        self.training = recipe.training
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
        indices = None if role == "original" else self.data.split.retain
        name = f"{role}-{index:03d}" if not method else f"{method}-{index - self.recipe.shadows.retrained:03d}"
        images = len(self.data.dataset.train.labels)
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
        method, split = point.method, self.data.split
        settings = settings_of(method)
        self._check_steps(method)
        wanted = method.needs()
        needs = [original]
        moments = basis = fisher = None
        if wanted.access == "moments" and len(split.steps) > 1:
            # Incremental: every step subtracts its own forget set, with the model of that step,
            # from running moments.
            moments = self._moments(original)
        elif wanted.access == "moments":
            basis = self._basis(original)
        elif wanted.access == "fisher":
            fisher = self._fisher(original, wanted.statistic)
        needs += [unit for unit in (moments, basis, fisher) if unit is not None]
        spec = UnlearnSpec(
            model=original.key,
            split=self.data.split_digest,
            method=point.name,
            params=method,
            seed=seed_for(self.recipe.seed, "unlearn", original.label.source, settings.get("seed", 0)),
            threads=self.threads,
            moments="" if moments is None else moments.key,
            basis="" if basis is None else basis.key,
            fisher="" if fisher is None else fisher.key,
            code=code_of(type(method)),
        )
        cost = (int(len(split.retain) * wanted.retain) or len(split.forget)) * max(1, method.passes())
        label = Label(method=point.name, params=point.params, source=original.label.source)
        return Unit(spec, f"{point.name}{short(point.written)} {original.name}", label, tuple(needs), cost)

    def _check_steps(self, method: Method) -> None:
        """Refuses, before anything runs, what the method cannot forget and steps that the scenario
        has not."""
        try:
            method.check(self.data.split)
        except ValueError as error:
            raise RecipeError(
                [fault_from(error, "scenario", self.recipe.section("scenario"))], self.recipe.name
            ) from None
        try:
            if method.in_steps:
                grouped_steps(self.data, method.steps().size)
        except ValueError as error:
            raise RecipeError([fault_from(error, "methods", settings_of(method))], self.recipe.name) from None

    def _moments(self, original: Unit) -> Unit:
        """Second moments of all training data: they belong to a model and its data, whatever will
        be forgotten."""
        spec = MomentsSpec(original.key, self.training.augment, self.data.digest)
        return Unit(spec, f"moments {original.name}", Label(source=original.label.source), (original,))

    def _basis(self, original: Unit) -> Unit:
        """Their decomposition without the forget set: one for every γ, criterion and top-k."""
        moments = self._moments(original)
        # As published: whole classes are taken off as they were summed, samples as they are.
        augment = self.training.augment if self.data.split.forget_classes else None
        spec = BasisSpec(moments.key, original.key, self.data.split_digest, augment)
        return Unit(spec, f"basis {original.name}", Label(source=original.label.source), (moments, original))

    def _fisher(self, original: Unit, statistic: str) -> Unit:
        """A Fisher diagonal of all training data: one for every method and setting that asks for
        it."""
        spec = FisherSpec(original.key, self.data.digest, statistic)
        cost = len(self.data.dataset.train.labels)
        return Unit(spec, f"{statistic} {original.name}", Label(source=original.label.source), (original,), cost)

    def _outputs(self, model: Unit, role: str, fold: str, method: str = "", params: Object | None = None) -> Unit:
        return self._outputs_unit(model, Label(role, fold, method, params or {}, model_id=model.name), fold == "test")

    def own_outputs(self, model: Unit) -> Unit:
        """Outputs and errors of a model of the user's own, or of one made from it."""
        return self._outputs_unit(model, Label("given", model_id=model.name), measured=True)

    def _outputs_unit(self, model: Unit, label: Label, measured: bool) -> Unit:
        data = self.data
        # Outputs stored before they told which class each column is have other keys, and are never
        # taken for these.
        removed = len(data.kept_classes) < data.dataset.num_classes
        classes = tuple(int(kept) for kept in data.kept_classes) if removed else ()
        spec = OutputsSpec(model.key, data.split_digest, measured, classes)
        label = replace(label, source=model.label.source)
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
