"""From a recipe to units: everything that will run, with its key, before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from attack import ATTACKS, DIVERGENCES
from attack.attacks.base import FITTED_FOLDS, Attack
from attack.distances.compare import DEFAULT_DIVERGENCES, equal_count, first_of
from attack.metrics.gaussians import PER_SAMPLE_MODELS
from unlearn.methods.base import Method

from ..base.errors import Fault, RecipeError
from ..base.values import Object
from ..recipe.choices import Point
from ..recipe.options import build, fault_from, option_names, settings_of
from ..recipe.sections import Recipe
from .code import code_of
from .data import ExperimentData
from .kept import Kept, collateral_unit, kept_units, unseen_units
from .selection import selection_units
from .sides import judged_ones, labelled, nothing_done, under_test
from .specs import (
    AttackSpec,
    BasisSpec,
    DistanceSpec,
    FisherSpec,
    MomentsSpec,
    Outputs,
    OutputsSpec,
    ScoreSpec,
    TracesSpec,
    UnlearnSpec,
)
from .steps import grouped_steps
from .trained import train_unit
from .units import STAGES, Label, Unit, default_threads, seed_for

FOLDS = ("train", "validation", "test")
# What scores and distances consist of: raised where their words or measures change, so that stored
# ones are not taken for new.
MEASURES = 5
DISTANCES = 1  # the same for distances alone


@dataclass(frozen=True)
class Row:
    """One line of the results: a method with its parameters, and the units that measure it."""

    method: str
    params: Object
    targets: tuple[Unit, ...]  # outputs of the models attacked (test fold)
    producers: tuple[Unit, ...]  # the training or unlearning units that made them
    # outputs of this method's models from the other folds (U-LiRA fits on them)
    companions: tuple[Unit, ...] = ()
    scores: tuple[Unit, ...] = ()
    distance: Unit | None = None  # None where the recipe has no retrained models to measure one to
    unseen: tuple[Unit, ...] = ()  # outputs of the models attacked on unseen images
    traces: Unit | None = None  # None where there are no retrained models
    collateral: Unit | None = None  # None unless the recipe asks for retained images
    unlearns: Method | None = None  # with its settings; None for the two reference rows

    @property
    def measures(self) -> tuple[Unit, ...]:
        """The units of the last stage: one for each attack, the distances, what single samples give
        away, and who else was hurt."""
        others = (self.distance, self.traces, self.collateral)
        return (*self.scores, *(unit for unit in others if unit is not None))


@dataclass(frozen=True)
class Plan:
    """Units by stage, and the rows they add up to."""

    recipe: Recipe
    stages: Mapping[str, tuple[Unit, ...]]
    rows: tuple[Row, ...]
    population: tuple[Unit, ...]  # outputs of all originals and retrained shadow models

    def units(self) -> Iterator[Unit]:
        for stage in STAGES:
            yield from self.stages[stage]


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
    return replace(plan, stages={name: _distinct(units) for name, units in stages.items()})


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
        attackers = self._attackers(population)
        rows: list[Row] = []
        test_originals = [u for u, fold in zip(self.originals, self._folds(), strict=True) if fold == "test"]
        no_unlearn = tuple(o for o in population if o.label.role == "original" and o.label.fold == "test")
        rows.append(Row("no_unlearn", {}, no_unlearn, tuple(test_originals)))
        references = tuple(self._outputs(u, "unlearned", "test", "retrain") for u in self.references)
        rows.append(Row("retrain", {}, references, tuple(self.references)))
        rows.extend(self._method_row(point) for point in self.recipe.methods)
        rows = [replace(row, unseen=self._unseen(row.targets)) for row in rows]
        z = self._unseen(population) if any(ATTACKS[a.name].takes_population for a in self.recipe.attacks) else ()
        rows = [self._scored(row, population, references, attackers, z) for row in rows]
        rows = self._with_traces(self._with_distances(rows, population), population)
        rows = self._with_collateral(rows, population)
        unlearn = [u for row in rows for u in row.producers if u.kind == "unlearn"]
        unlearn += [n for row in rows for o in row.companions for n in o.needs if n.kind == "unlearn"]
        outputs = [*population, *(o for row in rows for o in (*row.targets, *row.companions)), *z]
        outputs += [o for row in rows for o in row.unseen]
        outputs += [o for row in rows if row.collateral is not None for o in row.collateral.needs]
        chosen_by = selection_units(self.recipe, self.data.dataset)
        stages = {
            "train": _distinct([*self.originals, *self.retrained, *self.references, *chosen_by]),
            "unlearn": _distinct(unlearn),
            "outputs": _distinct(outputs),
            "attack": _distinct([unit for units in attackers.values() for unit in units]),
            "score": _distinct([unit for row in rows for unit in row.measures]),
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
        return Unit(spec, f"{point.name}{_short(point.written)} {original.name}", label, tuple(needs), cost)

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

    def _attackers(self, population: tuple[Unit, ...]) -> dict[str, list[Unit]]:
        """Returns the fitted candidates of each attack that is fitted once for all methods."""
        found: dict[str, list[Unit]] = {}
        fitting = [o for o in population if o.label.fold != "test"]
        for asked in self.recipe.attacks:
            name, options = asked.name, dict(asked.options)
            if ATTACKS[name].per_method or not ATTACKS[name].candidates():
                continue
            units = []
            for candidate in ATTACKS[name].candidates():
                attack = build(ATTACKS[name], {"seed": self.recipe.seed, **candidate, **options})
                spec = AttackSpec(name, attack, labelled(fitting), code_of(ATTACKS[name]))
                shown = ", ".join(f"{k}={v}" for k, v in candidate.items() if k not in options)
                units.append(Unit(spec, f"{name}({shown})", Label(attack=name), tuple(fitting)))
            found[name] = _distinct_list(units)
        return found

    def _scored(
        self,
        row: Row,
        population: tuple[Unit, ...],
        references: tuple[Unit, ...],
        attackers: dict[str, list[Unit]],
        z: tuple[Unit, ...],
    ) -> Row:
        negatives = tuple(o for o in population if o.label.role == "retrained" and o.label.fold == "test")
        scores = []
        for asked in self.recipe.attacks:
            name, options = asked.name, dict(asked.options)
            if ATTACKS[name].per_method and row.method == "retrain":
                continue  # it needs models unlearned from every original: this row has none
            if "seed" in option_names(ATTACKS[name]):
                options = {"seed": self.recipe.seed, **options}
            candidates = attackers.get(name, [])
            # An attack fitted on a row's own models is put to Retrain's too: they have no such row.
            own, reference = (row.companions, references) if ATTACKS[name].per_method else ((), ())
            # The same for every row where the attack is: only then may AUCs be subtracted.
            fit = [*population, *own] if not candidates else []
            fitted_on = labelled(fit)
            if ATTACKS[name].per_method and row.method == "no_unlearn":
                fitted_on = tuple(nothing_done(outputs) for outputs in fitted_on)
            unseen = (*z, *row.unseen) if z and ATTACKS[name].takes_population else ()
            spec = ScoreSpec(
                attack=name,
                params=_settled(build(ATTACKS[name], options), fitted_on),
                candidates=tuple(unit.key for unit in candidates),
                fit=fitted_on,
                positive=judged_ones(row.targets),
                negative=judged_ones(negatives),
                reference=judged_ones(reference),
                seed=seed_for(self.recipe.seed, "bootstrap"),
                measures=MEASURES,
                code=code_of(ATTACKS[name]),
                population=(*labelled(z), *under_test(row.unseen)) if unseen else (),
            )
            label = Label(attack=name, method=row.method, params=row.params)
            needs = dict.fromkeys((*candidates, *fit, *row.targets, *negatives, *reference, *unseen))
            scores.append(Unit(spec, f"{name} on {row.method}{_short(row.params)}", label, tuple(needs)))
        return replace(row, scores=tuple(scores))

    def _with_distances(self, rows: Sequence[Row], population: tuple[Unit, ...]) -> list[Row]:
        """Returns the rows with the unit that measures how far each one's models are from retrained
        ones, as an audit would.

        Retrain's own models are none of those that it is compared with: no other row has seen them
        either.
        """
        retrained = [o for o in population if o.label.role == "retrained"]
        if not retrained:
            return list(rows)
        originals = [o for o in population if o.label.role == "original"]
        everyone = [originals if row.method == "no_unlearn" else [*row.targets, *row.companions] for row in rows]
        early = {} if self.recipe.league is None else self.recipe.league.measured
        sizes = [len(outputs) for row, outputs in zip(rows, everyone, strict=True) if row.method not in early]
        count = equal_count(sizes, len(retrained))

        def first(outputs: Sequence[Unit], most: int) -> list[Unit]:
            places = first_of([(o.label.fold, o.label.model_id) for o in outputs], most)
            return [outputs[place] for place in places]

        divergences = tuple((name, build(DIVERGENCES[name], {})) for name in DEFAULT_DIVERGENCES)
        found = []
        for row, mine in zip(rows, everyone, strict=True):
            most = min(count, len(mine))
            sides: dict[str, Sequence[Unit]] = {
                "tested": row.targets,
                "negative": [o for o in retrained if o.label.fold == "test"],
                "models": first(mine, most),
                "retrained": first(retrained, most),
                "originals": [] if row.method in ("no_unlearn", "retrain") else rows[0].targets,
            }
            named = {side: labelled(outputs) for side, outputs in sides.items()}
            spec = DistanceSpec(**named, divergences=divergences, measures=MEASURES, version=DISTANCES)
            needs = dict.fromkeys(o for outputs in sides.values() for o in outputs)
            label = Label(method=row.method, params=row.params)
            name = f"distances of {row.method}{_short(row.params)}"
            found.append(replace(row, distance=Unit(spec, name, label, tuple(needs))))
        return found

    def _with_traces(self, rows: Sequence[Row], population: tuple[Unit, ...]) -> list[Row]:
        """Returns the rows with the unit that looks at single samples and unseen images."""
        retrained = [o for o in population if o.label.role == "retrained"]
        if not retrained:
            return list(rows)
        found = []
        for row in rows:
            spec = TracesSpec(
                models=under_test(row.targets),
                retrained=labelled(retrained),
                unseen=under_test(row.unseen),
                tail_fpr=self.recipe.verdict.tail_fpr,
                seed=self.recipe.seed,
                measures=MEASURES,
            )
            name = f"traces of {row.method}{_short(row.params)}"
            label = Label(method=row.method, params=row.params)
            needs = dict.fromkeys((*row.targets, *retrained, *row.unseen))
            found.append(replace(row, traces=Unit(spec, name, label, tuple(needs))))
        return found

    def _with_collateral(self, rows: Sequence[Row], population: tuple[Unit, ...]) -> list[Row]:
        """Returns the rows with the unit that looks at who else was hurt, where the recipe asks for
        it."""
        if not self.recipe.outputs.retain:
            return list(rows)
        retrained = [o for o in population if o.label.role == "retrained"]
        pool = kept_units(self.recipe, self.data, retrained)
        before = kept_units(self.recipe, self.data, rows[0].targets)
        found = []
        for row in rows:
            mine = kept_units(self.recipe, self.data, row.targets)
            earlier = Kept() if row.method == "no_unlearn" else before
            name = f"{row.method}{_short(row.params)}"
            unit = collateral_unit(self.recipe, self.data, row.method, row.params, name, mine, pool, earlier)
            found.append(replace(row, collateral=unit))
        return found


def _settled(attack: Attack, fitted_on: Sequence[Outputs]) -> Attack:
    """Returns an attack with what it leaves open decided, where there are models enough to choose.

    Scores of fewer models keep the keys under which earlier versions stored them.
    """
    counts = Counter(outputs.role for outputs in fitted_on if outputs.fold in FITTED_FOLDS)
    sides = [counts[role] for role, _ in attack.needs]
    return attack.settled(sides) if max(sides, default=0) >= PER_SAMPLE_MODELS else attack


def _short(params: Object) -> str:
    """Returns parameters in short, sorted: names are part of score keys, and the order in a recipe
    must not count."""
    return f"({', '.join(f'{k}={params[k]}' for k in sorted(params))})" if params else ""


def _distinct_list(units: list[Unit]) -> list[Unit]:
    return list({unit.key: unit for unit in units}.values())


def _distinct(units: list[Unit]) -> tuple[Unit, ...]:
    return tuple(_distinct_list(units))


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
