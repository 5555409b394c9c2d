"""Tuning: every method tries as many settings on as many models of the validation fold.

Settings are units, so a league that was killed measures nothing twice. What is tried next follows
from what is stored, so it also ends with the same winners.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from attack.distances.base import DIVERGENCES
from unlearn.core.rounding import within as within_bound

from ...base.documents import LeagueTrial, Tuned
from ...base.values import plain
from ...engine.base import Engine
from ...plan.data import ExperimentData
from ...plan.league import Entry, LeaguePlan, Rung, bound_of, point_of
from ...plan.objective import BEYOND, BROKEN, FAILED, FINISHED, STOPPED
from ...plan.search import MEASURED_ERROR, SearchPlan, Setting, plan_settings
from ...plan.units import Outcome, Unit, seed_for
from ...recipe.choices import Point
from ...store import Store
from ..search import SearchFailed
from ..stages import Stages
from .sampler import Sampler, generations

STAGE_OF = {"distance": "score"}
DIVERGENCE = {"klom": "klom", "epsilon": "forgetting_quality"}


@dataclass(frozen=True)
class Reading:
    """What the store says of a setting after some of its models.

    **Arguments:**

    - `distance`: to Retrain, as the league's objective measures it; 0 is the best.
    - `auc`, `error`, `error_rise`: see `plan.objective.Measured`.
    - `objective`: the number that is made small. Within the bound it is below 0.5.
    - `seconds`: of unlearning and measuring these models.
    """

    models: int
    distance: float
    auc: float
    error: float
    error_rise: float
    within_bound: bool
    objective: float
    seconds: float


@dataclass
class Candidate:
    """A setting under way. `failed`: why it could not be measured, empty where it could."""

    entry: Entry
    number: int
    source: str
    point: Point
    setting: Setting
    reading: Reading | None = None
    failed: str = ""

    @property
    def rank(self) -> tuple[float, float, int]:
        """What candidates are ordered by: objective, rise of the error, order of trial."""
        if self.reading is None or self.failed:
            return (FAILED, 0.0, self.number)
        return (self.reading.objective, self.reading.error_rise, self.number)


def read_setting(
    store: Store, setting: Setting, references: Sequence[Unit], models: int, objective: str, bound: float | None
) -> Reading:
    """Returns what is known of a setting after `models` of its steps, from the store.

    Errors are on the validation half of the test images; results report the other half.
    """
    steps = setting.steps[:models]
    auc = float(store.meta(steps[-1].score.key)["metrics"]["auc"])
    distance = abs(auc - 0.5)
    unit = steps[-1].distance
    if objective in DIVERGENCE and unit is not None:
        name = DIVERGENCE[objective]
        value = store.meta(unit.key)["metrics"][f"{name}/{DIVERGENCES[name].headline}"]
        value = float("inf") if value is None else float(value)
        distance = 1.0 - value if objective == "epsilon" else value
    errors = [float(store.meta(step.outputs.key)["errors"][MEASURED_ERROR]) for step in steps]
    before = [float(store.meta(reference.key)["errors"][MEASURED_ERROR]) for reference in references[:models]]
    rise = float(np.mean(errors) - np.mean(before))
    within = within_bound(rise, bound)
    # Every distance is brought below 0.5 in its own order, so that the bound comes first.
    inside = distance if objective == "auc_gap" else 0.5 * (1.0 - 1.0 / (1.0 + distance))
    beyond = BEYOND if bound is None else BEYOND + min(1.0, (rise - bound) / 100.0)
    seconds = sum(float(store.meta(u.key)["seconds"]) for step in steps for u in (step.unlearn, step.outputs))
    measuring = [step.score for step in steps] + [step.distance for step in steps if step.distance is not None]
    seconds += sum(float(store.meta(u.key)["seconds"]) for u in measuring if store.has(u.key))
    return Reading(models, distance, auc, float(np.mean(errors)), rise, within, inside if within else beyond, seconds)


@dataclass
class Tuning:
    """Tunes all methods of a league together, so that workers are never idle for one method's sake.

    **Arguments:** `engine`: returns where units run; asked once something is missing. `say`: prints
    progress.
    """

    plan: LeaguePlan
    data: ExperimentData
    store: Store
    stages: Stages
    engine: Callable[[], Engine]
    say: Callable[[str], None]
    _failures: dict[str, str] = field(default_factory=dict)
    _prepared: set[str] = field(default_factory=set)

    def tune(self) -> list[Tuned]:
        """Returns what became of each method, in the recipe's order.

        **Raises:** `SearchFailed` where shadow models or attackers that all settings need fail.
        """
        found = self._first_rung()
        first, *rest = self.plan.rungs
        running = {name: self._best(tried, first) for name, tried in found.items()}
        for rung in rest:
            kept = {name: sorted(tried, key=lambda c: c.rank)[: rung.settings] for name, tried in running.items()}
            self._measure([candidate for tried in kept.values() for candidate in tried], rung.models)
            running = {name: self._best(tried, rung) for name, tried in kept.items()}
        return [self._tuned(entry, found[entry.name], running[entry.name]) for entry in self.plan.entries]

    def make(self, units: Sequence[Unit]) -> None:
        """Makes units that are not stored; what fails is not there afterwards."""
        self._run(units, "")

    def _best(self, tried: Sequence[Candidate], rung: Rung) -> list[Candidate]:
        """Returns those that could be measured, the best first."""
        good = [c for c in tried if not c.failed and c.reading is not None and c.reading.models >= rung.models]
        return sorted(good, key=lambda candidate: candidate.rank)

    def _first_rung(self) -> dict[str, list[Candidate]]:
        recipe, budget = self.plan.recipe, self.plan.league.budget
        samplers = {
            entry.name: Sampler(
                entry,
                budget.settings,
                seed_for(recipe.seed, "league", entry.name),
                functools.partial(point_of, recipe, entry.name),
            )
            for entry in self.plan.entries
        }
        found: dict[str, list[Candidate]] = {entry.name: [] for entry in self.plan.entries}
        for count in generations(budget.settings):
            fresh = self._asked(samplers, found, count)
            self._measure(fresh, self.plan.rungs[0].models)
            for name, sampler in samplers.items():
                mine = [candidate for candidate in fresh if candidate.entry.name == name]
                sampler.tell([candidate.rank[0] for candidate in mine])
                found[name] += mine
        return found

    def _asked(
        self, samplers: Mapping[str, Sampler], found: Mapping[str, Sequence[Candidate]], count: int
    ) -> list[Candidate]:
        asked = [
            (entry, source, point) for entry in self.plan.entries for source, point in samplers[entry.name].ask(count)
        ]
        if not asked:
            return []
        methods = [{"name": point.name, **point.written} for _, _, point in asked]
        distances = self.plan.league.objective in DIVERGENCE
        planned = plan_settings(self.plan.recipe, self.data, methods, distances=distances)
        self._references = planned.references
        self._prepare(planned)
        numbers = {name: len(tried) for name, tried in found.items()}
        fresh = []
        for (entry, source, point), setting in zip(asked, planned.settings, strict=True):
            numbers[entry.name] += 1
            fresh.append(Candidate(entry, numbers[entry.name], source, point, setting))
        return fresh

    def _prepare(self, plan: SearchPlan) -> None:
        """Makes what settings share: models and attackers of the attacker's folds, moments, Fisher
        diagonals."""
        fixed = [*plan.models, *plan.population, *plan.references, *plan.attackers, plan.baseline]
        self._run(fixed, "every setting needs")
        self._run(plan.shared, "")

    def _measure(self, candidates: Sequence[Candidate], models: int) -> None:
        """Measures settings on `models` models; those that fail say why."""
        units = [unit for c in candidates if not c.failed for step in c.setting.steps[:models] for unit in step.units()]
        self.say(f"league: {len(candidates)} settings on {models} model{'s' if models != 1 else ''} each")
        self._run(units, "")
        bound = bound_of(self.plan.league)
        for candidate in candidates:
            needed = [unit for step in candidate.setting.steps[:models] for unit in step.units()]
            missing = next((unit for unit in needed if not self.store.has(unit.key)), None)
            if missing is not None:
                candidate.failed = self._why(missing)
                continue
            candidate.reading = read_setting(
                self.store, candidate.setting, self._references, models, self.plan.league.objective, bound
            )

    def _why(self, unit: Unit) -> str:
        causes = [*unit.ancestors().values(), unit]
        return next((self._failures[u.key] for u in causes if u.key in self._failures), f"{unit.name}: not made")

    def _run(self, units: Sequence[Unit], needed: str) -> None:
        """Runs what is not stored. `needed`: begins the complaint where a failure ends the
        league."""
        by_stage: dict[str, list[Unit]] = {stage: [] for stage in ("train", "unlearn", "outputs", "attack", "score")}
        distinct = list({unit.key: unit for unit in units if unit.key not in self._prepared}.values())
        stored = self.store.committed({unit.key for unit in distinct})
        for unit in distinct:
            stage = unit.kind if unit.kind in by_stage else STAGE_OF.get(unit.kind, "unlearn")
            by_stage[stage].append(unit)
        missing = {stage: [u for u in some if u.key not in stored] for stage, some in by_stage.items()}
        failed: list[Outcome] = []

        def listen(unit: Unit, outcome: Outcome) -> None:
            if outcome.failed:
                self._failures[unit.key] = f"{outcome.name}: {outcome.error}"
                failed.append(outcome)

        if any(missing.values()):
            reused = {stage: len(some) - len(missing[stage]) for stage, some in by_stage.items()}
            self.stages.run(missing, reused, self.engine, listen)
        if failed and needed:
            first = f"{failed[0].name}: {failed[0].error}"
            raise SearchFailed(f"{self.plan.recipe.name}: {needed} what failed: {first}")
        if not failed:
            self._prepared |= {unit.key for unit in distinct}

    def _tuned(self, entry: Entry, tried: Sequence[Candidate], last: Sequence[Candidate]) -> Tuned:
        # Where all that came so far failed on more models, one of fewer models is better than none.
        good = last or sorted((c for c in tried if not c.failed and c.reading is not None), key=lambda c: c.rank)
        winner = good[0] if good else None
        models = self.plan.league.budget.models
        trials = [_trial(candidate, models, candidate is winner) for candidate in tried]
        within = winner is not None and winner.reading is not None and winner.reading.within_bound
        why = ""
        if winner is None:
            why = next((c.failed for c in tried if c.failed), "no setting could be tried")
        elif not within:
            why = "no setting kept the bound on the test error"
        return {
            "method": entry.name,
            "title": entry.title,
            "trials": trials,
            "spent": {
                "settings": len(tried),
                "models": sum(trial["models"] for trial in trials),
                "seconds": sum(trial["seconds"] for trial in trials),
            },
            "winner": None if winner is None else {"name": entry.name, **winner.point.written},
            "within_bound": within,
            "why": why,
        }


def _trial(candidate: Candidate, models: int, winner: bool) -> LeagueTrial:
    reading = candidate.reading
    status, why = FINISHED, ""
    if candidate.failed:
        status, why = BROKEN, candidate.failed
    elif reading is None or reading.models < models:
        status = STOPPED
        why = (
            f"better settings were measured on more than {0 if reading is None else reading.models} of {models} models"
        )
    params = {name: plain(value) for name, value in candidate.point.written.items()}
    return {
        "number": candidate.number,
        "source": candidate.source,
        "params": params,
        "models": 0 if reading is None else reading.models,
        "distance": None if reading is None else reading.distance,
        "auc": None if reading is None else reading.auc,
        "error": None if reading is None else reading.error,
        "error_rise": None if reading is None else reading.error_rise,
        "objective": FAILED if candidate.failed or reading is None else reading.objective,
        "within_bound": None if reading is None else reading.within_bound,
        "seconds": 0.0 if reading is None else reading.seconds,
        "status": status,
        "why": why,
        "winner": winner,
    }
