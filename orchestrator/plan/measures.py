"""The units that measure: attackers, scores, distances, single samples, and who else was hurt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from attack import ATTACKS, DIVERGENCES
from attack.attacks.base import FITTED_FOLDS, Attack
from attack.distances.compare import DEFAULT_DIVERGENCES, equal_count, first_of
from attack.metrics.gaussians import PER_SAMPLE_MODELS

from ..recipe.options import build, option_names
from ..recipe.sections import Recipe
from .code import code_of
from .data import ExperimentData
from .kept import Kept, collateral_unit, kept_units
from .rows import Row, distinct, short
from .sides import judged_ones, labelled, nothing_done, under_test
from .specs import AttackSpec, DistanceSpec, Outputs, ScoreSpec, TracesSpec
from .units import Label, Unit, seed_for

# What scores and distances consist of: raised where their words or measures change, so that stored
# ones are not taken for new.
MEASURES = 6
DISTANCES = 1  # the same for distances alone


def attackers(recipe: Recipe, population: tuple[Unit, ...]) -> dict[str, list[Unit]]:
    """Returns the fitted candidates of each attack that is fitted once for all methods."""
    found: dict[str, list[Unit]] = {}
    fitting = [o for o in population if o.label.fold != "test"]
    for asked in recipe.attacks:
        name, options = asked.name, dict(asked.options)
        if ATTACKS[name].per_method or not ATTACKS[name].candidates():
            continue
        units = []
        for candidate in ATTACKS[name].candidates():
            attack = build(ATTACKS[name], {"seed": recipe.seed, **candidate, **options})
            spec = AttackSpec(name, attack, labelled(fitting), code_of(ATTACKS[name]))
            shown = ", ".join(f"{k}={v}" for k, v in candidate.items() if k not in options)
            units.append(Unit(spec, f"{name}({shown})", Label(attack=name), tuple(fitting)))
        found[name] = list(distinct(units))
    return found


def scored(
    recipe: Recipe,
    row: Row,
    population: tuple[Unit, ...],
    references: tuple[Unit, ...],
    attackers: dict[str, list[Unit]],
    z: tuple[Unit, ...],
) -> Row:
    negatives = tuple(o for o in population if o.label.role == "retrained" and o.label.fold == "test")
    scores = []
    for asked in recipe.attacks:
        name, options = asked.name, dict(asked.options)
        if ATTACKS[name].per_method and row.method == "retrain":
            continue  # it needs models unlearned from every original: this row has none
        if "seed" in option_names(ATTACKS[name]):
            options = {"seed": recipe.seed, **options}
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
            seed=seed_for(recipe.seed, "bootstrap"),
            measures=MEASURES,
            code=code_of(ATTACKS[name]),
            population=(*labelled(z), *under_test(row.unseen)) if unseen else (),
        )
        label = Label(attack=name, method=row.method, params=row.params)
        needs = dict.fromkeys((*candidates, *fit, *row.targets, *negatives, *reference, *unseen))
        scores.append(Unit(spec, f"{name} on {row.method}{short(row.params)}", label, tuple(needs)))
    return replace(row, scores=tuple(scores))


def with_distances(recipe: Recipe, rows: Sequence[Row], population: tuple[Unit, ...]) -> list[Row]:
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
    early = {} if recipe.league is None else recipe.league.measured
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
        name = f"distances of {row.method}{short(row.params)}"
        found.append(replace(row, distance=Unit(spec, name, label, tuple(needs))))
    return found


def with_traces(recipe: Recipe, rows: Sequence[Row], population: tuple[Unit, ...]) -> list[Row]:
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
            tail_fpr=recipe.verdict.tail_fpr,
            seed=recipe.seed,
            measures=MEASURES,
        )
        name = f"traces of {row.method}{short(row.params)}"
        label = Label(method=row.method, params=row.params)
        needs = dict.fromkeys((*row.targets, *retrained, *row.unseen))
        found.append(replace(row, traces=Unit(spec, name, label, tuple(needs))))
    return found


def with_collateral(
    recipe: Recipe, data: ExperimentData, rows: Sequence[Row], population: tuple[Unit, ...]
) -> list[Row]:
    """Returns the rows with the unit that looks at who else was hurt, where the recipe asks for
    it."""
    if not recipe.outputs.retain:
        return list(rows)
    retrained = [o for o in population if o.label.role == "retrained"]
    pool = kept_units(recipe, data, retrained)
    before = kept_units(recipe, data, rows[0].targets)
    found = []
    for row in rows:
        mine = kept_units(recipe, data, row.targets)
        earlier = Kept() if row.method == "no_unlearn" else before
        name = f"{row.method}{short(row.params)}"
        unit = collateral_unit(recipe, data, row.method, row.params, name, mine, pool, earlier)
        found.append(replace(row, collateral=unit))
    return found


def _settled(attack: Attack, fitted_on: Sequence[Outputs]) -> Attack:
    """Returns an attack with what it leaves open decided, where there are models enough to choose.

    Scores of fewer models keep the keys under which earlier versions stored them.
    """
    counts = Counter(outputs.role for outputs in fitted_on if outputs.fold in FITTED_FOLDS)
    sides = [counts[role] for role, _ in attack.needs]
    return attack.settled(sides) if max(sides, default=0) >= PER_SAMPLE_MODELS else attack
