"""What work will cost, from what such work has cost: unit seconds learnt from a store, wall-clock
time by simulation.

Units are alike when they do the same with the same kind of model; among those, seconds grow with
the unit's cost. What no unit like it has been measured for stays unknown.
"""

from __future__ import annotations

import heapq
import itertools
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from ..base.values import Object, Record, canonical
from ..engine.base import queued
from ..engine.queue import UnitQueue
from ..plan.rows import Plan
from ..plan.specs import AttackSpec, GivenSpec, OutputsSpec, ScoreSpec, TrainSpec, UnlearnSpec
from ..plan.stages import STAGES
from ..plan.units import Unit
from ..recipe.choices import Choice
from ..store import Store

OWN_SAMPLES = 200  # stored units of each stage that are read
MOST_FOREIGN = 3000  # objects of other experiments that are looked at
MOST_SECONDS = 5.0
# of a model and its data; unlearning makes them on its way
STATISTICS = ("moments", "basis", "fisher")
# what the seconds of one image depend on
TRAINING_PACE = ("batch_size", "augment", "precision", "path")


@dataclass
class Pace:
    """Seconds for each unit of cost, by likeness."""

    samples: dict[str, list[float]] = field(default_factory=dict)
    hosts: set[str] = field(default_factory=set)
    own: int = 0
    shared: int = 0
    rates: dict[tuple[object, ...], float | None] = field(default_factory=dict)

    def add(self, likeness: str, seconds: float, cost: float) -> None:
        if cost > 0:
            self.rates.clear()
            self.samples.setdefault(likeness, []).append(seconds / cost)

    def seconds(self, unit: Unit, dataset: str) -> float | None:
        """Returns the seconds that a unit will take; None where none like it has been measured."""
        if not self.samples:
            return None
        sort = (*_sort_of(unit), dataset)
        if sort not in self.rates:
            self.rates[sort] = self._rate(unit, dataset)
        rate = self.rates[sort]
        return None if rate is None else rate * _cost(unit)

    def _rate(self, unit: Unit, dataset: str) -> float | None:
        spec, model = unit.spec.identity(), _model_of(unit)
        for data in (dataset, ""):
            likeness = _likeness(unit.kind, spec, model, data)
            if likeness in self.samples:
                return statistics.median(self.samples[likeness])
        return None


def _sort_of(unit: Unit) -> tuple[object, ...]:
    """Returns what units of one plan have in common that are alike: asked of each of a hundred
    thousand, where `_likeness` would take seconds."""
    spec, trained = unit.spec, _trained(unit)
    about: tuple[object, ...] = (unit.kind, id(trained))
    if isinstance(spec, TrainSpec):
        return (*about, id(spec.training))
    if isinstance(spec, UnlearnSpec):
        return (*about, spec.method)
    if isinstance(spec, OutputsSpec):
        return (*about, spec.errors)
    return (*about, spec.attack) if isinstance(spec, AttackSpec | ScoreSpec) else about


def learn(groups: Mapping[str, Sequence[Unit]], stored: set[str], store: Store | None, dataset: str) -> Pace:
    """Returns the pace of work in `store`: of a plan's own units. Where any are left that are like
    none of them, others that are alike are looked at too.

    **Arguments:** `groups`: the plan's units by stage. `stored`: the keys of those that are.
    `dataset`: the digest of the plan's data; seconds on other data count where there are none on
    this.
    """
    pace = Pace()
    if store is None:
        return pace
    known: set[str] = set()
    for units in groups.values():
        for unit in itertools.islice((unit for unit in units if unit.key in stored), OWN_SAMPLES):
            try:
                meta = store.meta(unit.key)
            except KeyError:
                continue  # damaged, and set aside at this look
            known.add(unit.key)
            _add(pace, unit.kind, unit.spec.identity(), _model_of(unit), dataset, meta, _cost(unit))
            pace.own += 1
    missing = (unit for units in groups.values() for unit in units if unit.key not in stored)
    if any(pace.seconds(unit, dataset) is None for unit in missing):
        _learn_from_others(pace, store, known)
    return pace


def _learn_from_others(pace: Pace, store: Store, known: set[str]) -> None:
    models: dict[str, Object] = {}
    datasets: dict[str, str] = {}
    deadline = time.monotonic() + MOST_SECONDS
    later = []
    for index, key in enumerate(store.keys()):
        if index >= MOST_FOREIGN or time.monotonic() > deadline:
            break
        try:
            meta = store.meta(key)
        except KeyError:
            continue
        if "model" in meta:
            models[key] = meta["model"]
            datasets[key] = str(meta.get("spec", {}).get("dataset", ""))
        if key not in known and "seconds" in meta and "spec" in meta:
            later.append(meta)
    for meta in later:  # now every parent's model is known
        spec, kind = meta["spec"], meta["kind"]
        model = meta.get("model", models.get(str(spec.get("model")))) if kind != "train" else spec["model"]
        cost = _listed(kind, spec) or float(meta.get("cost") or 0.0)
        if not cost or (model is None and kind in ("unlearn", "outputs", "unseen", "retained", *STATISTICS)):
            continue
        data = str(spec.get("dataset", datasets.get(str(spec.get("model")), "")))
        _add(pace, kind, spec, model, data, meta, cost)
        pace.shared += 1


def _add(pace: Pace, kind: str, spec: Record, model: Object | None, dataset: str, meta: Record, cost: float) -> None:
    for data in {dataset, ""}:
        pace.add(_likeness(kind, spec, model, data), float(meta["seconds"]), cost)
    pace.hosts.add(str(meta.get("host", "")))


def _likeness(kind: str, spec: Record, model: Object | None, dataset: str) -> str:
    if kind == "train":
        training = spec["training"]
        return canonical([kind, model, {k: training.get(k) for k in TRAINING_PACE}, dataset])
    if kind == "unlearn":
        return canonical([kind, spec["method"], model, dataset])
    if kind == "outputs":
        return canonical([kind, model, spec["errors"], dataset])
    if kind in ("unseen", "retained", *STATISTICS):
        return canonical([kind, model, dataset])
    if kind in ("attack", "score"):
        return canonical([kind, spec["attack"]])
    return canonical([kind])


def _trained(unit: Unit) -> Choice | None:
    """Returns the settings of the model that a unit is about, or of one of them."""
    while not isinstance(unit.spec, TrainSpec | GivenSpec):
        if not unit.needs:
            return None
        unit = unit.needs[0]  # what it is made from comes first
    return unit.spec.model


def _model_of(unit: Unit) -> Object | None:
    trained = _trained(unit)
    return None if trained is None else trained.to_json()


# What an attacker is fitted on or scores, and what distances are of: so many models are the cost.
LISTED = {
    "attack": ("outputs",),
    "score": ("fit", "positive", "negative"),
    "traces": ("models", "retrained"),
    "distance": ("tested", "negative", "models", "retrained"),
}


def _cost(unit: Unit) -> float:
    return _listed(unit.kind, vars(unit.spec)) or unit.cost


def _listed(kind: str, spec: Record) -> float:
    return float(sum(len(spec[name]) for name in LISTED.get(kind, ())))


def groups_of(plan: Plan) -> dict[str, list[Unit]]:
    """Returns the units of each stage, with the moments and bases that unlearning makes on its
    way."""
    found: dict[str, dict[str, Unit]] = {}
    for stage in STAGES:
        units = found.setdefault(stage, {})
        for unit in plan.stages[stage]:
            units[unit.key] = unit
            if stage == "unlearn":
                units.update({n.key: n for n in unit.ancestors().values() if n.kind in STATISTICS})
    return {stage: list(units.values()) for stage, units in found.items()}


class Left(TypedDict):
    """What is left to do: seconds of work, wall-clock seconds at so many units at once, hours.

    Null where units like these have never run.
    """

    unit_seconds_left: float | None
    wall_seconds_left: float | None
    cpu_hours_left: float | None
    gpu_hours_left: float | None


class StageEstimate(Left):
    """What is left of one stage. `units_unknown` are those whose seconds are not known."""

    units: int
    stored: int
    missing: int
    units_unknown: int


class Learnt(TypedDict):
    """The finished units that an estimate rests on, and where they ran."""

    own_units: int
    units_of_others: int
    hosts: list[str]


class Estimate(TypedDict):
    """What is left in each stage and in all, with `slots` units at once."""

    slots: int
    stages: dict[str, StageEstimate]
    total: Left
    learnt_from: Learnt


def estimate(plan: Plan, store: Store | None, dataset: str, slots: int) -> Estimate:
    """Returns what is left to do in each stage and in all: units, seconds of work, hours of CPU and
    GPU, wall-clock seconds.

    **Arguments:** `slots`: units at once.

    **Returns:** JSON data; what is not known is null. Wall-clock time is that of units, without
    starting Ray or drawing. Stages overlap, so the whole takes less than their sum.
    """
    groups = groups_of(plan)
    stored = set() if store is None else store.committed(unit.key for units in groups.values() for unit in units)
    pace = learn(groups, stored, store, dataset)
    resources = plan.recipe.resources
    stages: dict[str, StageEstimate] = {}
    everything: list[Unit] = []
    seconds: dict[str, float] = {}
    for stage, units in groups.items():
        planned = {unit.key for unit in plan.stages[stage]}
        missing = [unit for unit in units if unit.key not in stored]
        own = {unit.key: pace.seconds(unit, dataset) for unit in missing}
        unknown = sum(seconds is None for seconds in own.values())
        work = None if unknown else sum(seconds or 0.0 for seconds in own.values())
        gpu = stage in ("train", "unlearn", "outputs")
        left = [unit for unit in missing if unit.key in planned]
        alone = {unit.key: own[unit.key] or 0.0 for unit in left}
        whole = _with_statistics(left, own) if stage == "unlearn" else alone
        everything += left
        seconds |= whole
        stages[stage] = {
            "units": len(planned),
            "stored": len(planned) - sum(unit.key in planned for unit in missing),
            "missing": sum(unit.key in planned for unit in missing),
            "unit_seconds_left": work,
            "units_unknown": unknown,
            "wall_seconds_left": None if work is None else simulate(left, whole, slots),
            "cpu_hours_left": None if work is None else work * resources.cpus_per_unit / 3600,
            "gpu_hours_left": None if work is None else work * (resources.gpus_per_unit if gpu else 0.0) / 3600,
        }
    total: Left = {
        "unit_seconds_left": _total(stage["unit_seconds_left"] for stage in stages.values()),
        "wall_seconds_left": _total(stage["wall_seconds_left"] for stage in stages.values()),
        "cpu_hours_left": _total(stage["cpu_hours_left"] for stage in stages.values()),
        "gpu_hours_left": _total(stage["gpu_hours_left"] for stage in stages.values()),
    }
    if total["wall_seconds_left"] is not None:
        total["wall_seconds_left"] = simulate(everything, seconds, slots)
    learnt: Learnt = {"own_units": pace.own, "units_of_others": pace.shared, "hosts": sorted(pace.hosts - {""})}
    return {"slots": slots, "stages": stages, "total": total, "learnt_from": learnt}


def _total(values: Iterable[float | None]) -> float | None:
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _with_statistics(units: Sequence[Unit], seconds: Mapping[str, float | None]) -> dict[str, float]:
    """Returns what each unit takes, moments and bases with the first unit that needs them."""
    made: set[str] = set()
    whole: dict[str, float] = {}
    for unit in units:
        extra = [key for key in unit.ancestors() if key in seconds and key not in made and key not in whole]
        made.update(extra)
        whole[unit.key] = (seconds[unit.key] or 0.0) + sum(seconds[key] or 0.0 for key in extra)
    return whole


def simulate(units: Sequence[Unit], seconds: Mapping[str, float], slots: int, *, per_unit: float = 0.0) -> float:
    """Returns the wall-clock seconds that units take when workers pull from the scheduler's own
    queue.

    **Arguments:**

    - `seconds`: unit key → seconds that it takes, which the queue does not know beforehand; it
      orders by `Unit.cost`.
    - `per_unit`: seconds that a unit costs beside that.
    """
    queue = UnitQueue(queued(units))
    idle = list(range(min(max(1, slots), len(units))))
    running: list[tuple[float, int, int]] = []
    now = 0.0
    while not queue.over:
        while idle and (taken := queue.take(idle[-1])):
            worker = idle.pop()
            heapq.heappush(running, (now + seconds[units[taken[0]].key] + per_unit, worker, taken[0]))
        now, worker, place = heapq.heappop(running)
        queue.settle(worker, place, failed=False)
        idle.append(worker)
    return now


def total_seconds(seconds: Iterable[float], slots: int) -> float:
    """Returns the least wall-clock seconds that any schedule can take: total work over slots, or
    the longest unit.
    """
    values = list(seconds)
    return max(sum(values) / max(1, slots), max(values, default=0.0))
