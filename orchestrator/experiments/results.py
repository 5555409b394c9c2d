"""From the store to `results.json` and `curves.json`: nothing is computed here that a unit has not
measured."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from attack import ATTACKS
from attack.audit.rows import build_row
from attack.audit.verdicts import judge_rows, with_verdict
from attack.distances.chance import Gap
from attack.distances.compare import Distances
from attack.metrics.areas import Areas
from attack.metrics.evidence import Rule
from attack.metrics.harm import Harm
from attack.metrics.measure import Measure, mean_measure
from attack.metrics.row import NO_UNLEARN, PRIMARY, RETRAIN
from attack.metrics.row import Row as ResultRow
from attack.metrics.t_intervals import Shares, share_interval

from ..base.documents import (
    ConfidenceCurve,
    Curves,
    Environment,
    Hardware,
    IncrementalCurve,
    Results,
    RocCurve,
    TrainingCurve,
    UnlearningCurve,
    Work,
)
from ..base.files import write_synced
from ..base.provenance import _cpus, git_state, versions
from ..base.text import first_of
from ..base.values import Record, finite
from ..plan.data import ExperimentData
from ..plan.rows import Plan, Row
from ..plan.specs import ScoreSpec
from ..plan.units import Unit, seed_for
from ..recipe.options import plain
from ..recipe.sections import Recipe
from ..store import Store
from ..work.collateral import stored_harm
from ..work.incremental import failing_point
from ..work.scoring import same_attacker, stored_score
from ..work.traces import row_facts
from .samples import samples

SCHEMA_VERSION = 1
NOT_DONE = "not done yet"  # of a row whose units are missing, and none of them has failed


def collect(
    plan: Plan, data: ExperimentData, store: Store, failures: Mapping[str, str]
) -> tuple[list[ResultRow], Curves]:
    """Returns the result rows and the curves that the figures are drawn from.

    **Arguments:**

    - `failures`: unit key → one line, for units that failed in this or the last invocation.
    """
    split = data.split
    counts = {"forget": split.forget, "retain": split.retain, "val": split.val, "test": split.test}
    sizes = {f"error_{name}": len(indices) for name, indices in counts.items()}
    collected = _Collected(plan, data, store, failures, sizes)
    rows = [collected.row(row) for row in plan.rows]
    curves = _curves(plan, store)
    curves["samples"] = samples(plan, data, store, rows)
    return _judged(plan, store, rows), curves


def _judged(plan: Plan, store: Store, rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Returns the rows with their verdicts, where there is something to judge."""
    originals = [unit.name for unit in plan.stages["train"] if unit.label.role == "original"]
    facts = [row_facts(row, store, originals) for row in plan.rows]
    scores = [unit for row in plan.rows for unit in row.scores]
    # Without z, RMIA ranks forget samples only, and so reverses direction on damaged models.
    silent = {u.label.attack for u in scores if ATTACKS[u.label.attack].takes_population and not u.spec.population}
    rule = Rule(plan.recipe.verdict.tolerance, plan.recipe.verdict.tail_fpr)
    verdicts = judge_rows(facts, rule, silent)
    return [
        with_verdict(row, verdict) if known.areas else row
        for row, known, verdict in zip(rows, facts, verdicts, strict=True)
    ]


def _curves(plan: Plan, store: Store) -> Curves:
    """Returns what `curves.json` holds."""
    roc: list[RocCurve] = []
    confidence: list[ConfidenceCurve] = []
    unlearning: list[UnlearningCurve] = []
    incremental: list[IncrementalCurve] = []
    for index, row in enumerate(plan.rows):
        for unit in row.scores:
            if not store.has(unit.key):
                continue
            curve = json.loads(store.fetch(unit.key, "curves.json").read_text())
            rates, counts = curve["roc"], curve["confidence"]
            roc.append({"row": index, "attack": unit.label.attack, "fpr": rates["fpr"], "tpr": rates["tpr"]})
            confidence.append(
                {
                    "row": index,
                    "attack": unit.label.attack,
                    "edges": counts["edges"],
                    "unlearned": counts["unlearned"],
                    "retrained": counts["retrained"],
                }
            )
        for unit in row.producers:
            if unit.kind == "unlearn" and store.has(unit.key):
                meta = store.meta(unit.key)
                unlearning.append(
                    {"row": index, "model_id": unit.name, "stopped_at": meta["stopped_at"], "history": meta["history"]}
                )
                if meta["steps"]:
                    incremental.append({"row": index, "model_id": unit.name, "steps": meta["steps"]})
    training: list[TrainingCurve] = [
        {"model_id": unit.name, "role": unit.label.role, "history": store.meta(unit.key)["history"]}
        for unit in plan.stages["train"]
        if unit.kind == "train" and store.has(unit.key)
    ]
    return {
        "roc": roc,
        "confidence": confidence,
        "training": training,
        "unlearning": unlearning,
        "incremental": incremental,
    }


class _Collected:
    """Rows from stored units. Retrain's seconds a model and its scores are what other rows are held
    against."""

    def __init__(
        self,
        plan: Plan,
        data: ExperimentData,
        store: Store,
        failures: Mapping[str, str],
        samples: Mapping[str, int],
    ):
        self.data, self.group = data, plan.recipe.outputs.group or ""
        self.store = store
        self.failures = failures
        self.samples = samples
        self.seed = plan.recipe.seed
        retrain = next(row for row in plan.rows if row.method == RETRAIN)
        self.retrain_seconds = _mean_seconds(self._made(retrain).values())
        self.retrain_scores = {unit.label.attack: unit for unit in retrain.scores if store.has(unit.key)}
        names = _sources(retrain)
        self.retrain_areas = {
            attack: stored_score(unit, store, names).areas for attack, unit in self.retrain_scores.items()
        }

    def row(self, row: Row) -> ResultRow:
        """Returns the result row of a planned one, as far as its units are stored."""
        store, names = self.store, _sources(row)
        done = [unit for unit in row.targets if store.has(unit.key)]
        problems = _problems(row, store, self.failures)
        made = self._made(row)
        metrics = self._errors(row, done)
        seconds = None if row.method == NO_UNLEARN else _mean_seconds(made.values())
        metrics["seconds_per_model"] = Measure(seconds)
        speedup = self.retrain_seconds / seconds if seconds and self.retrain_seconds else None
        metrics["speedup_vs_retrain"] = Measure(speedup)
        metrics["epochs"] = Measure(None if row.method == NO_UNLEARN else _mean_epochs(made.values()))
        unlearned = {unit: meta for unit, meta in made.items() if unit.kind == "unlearn"}
        metrics |= _incremental(unlearned)
        harm = self._harm(row)
        if harm is not None:
            metrics |= harm.measures([names[unit.label.model_id] for unit in row.targets])
        units = [unit for unit in row.scores if store.has(unit.key)]
        scored = [stored_score(unit, store, names) for unit in units]
        retrain, notes = self._comparable(row, units)
        for meta in unlearned.values():
            notes += meta["notes"]
        needs = None if row.unlearns is None else row.unlearns.needs()
        known = ResultRow(
            row.method,
            {name: plain(value) for name, value in row.params.items()},
            metrics,
            status="failed" if problems else "done",
            seconds=seconds,
            models=len(done),
            retrained_models=len(units[0].spec.negative) if units else None,
            sources=tuple(names[unit.label.model_id] for unit in done),
            notes=tuple(notes),
            error=first_of(problems) if problems else "",
            title="" if row.unlearns is None else row.unlearns.card.title,
            access="" if needs is None else needs.access,
            validation=needs is not None and needs.validation,
            watched="" if needs is None else needs.watched,
            harm=harm,
        )
        return build_row(known, scored, self._distances(row), retrain, lambda name: seed_for(self.seed, name))

    def _made(self, row: Row) -> dict[Unit, Record]:
        """Returns what the finished units say that made the row's models."""
        return {unit: self.store.meta(unit.key) for unit in row.producers if self.store.has(unit.key)}

    def _errors(self, row: Row, done: Sequence[Unit]) -> dict[str, Measure]:
        """Returns the error rates over the row's models, in percent."""
        names, found = _sources(row), {}
        errors = {names[unit.label.model_id]: self.store.meta(unit.key)["errors"] for unit in done}
        for name, count in self.samples.items():
            values = {model: known.get(name) for model, known in errors.items()}
            found[name] = error_measure({model: value for model, value in values.items() if value is not None}, count)
        return found

    def _comparable(self, row: Row, units: Sequence[Unit[ScoreSpec]]) -> tuple[dict[str, Areas], list[str]]:
        """Returns Retrain's areas by the attacks that one attacker scored both rows for, and notes
        on the others."""
        areas, notes = {}, []
        for unit in units:
            theirs = self.retrain_scores.get(unit.label.attack)
            if theirs is None or row.method == RETRAIN:
                continue
            if same_attacker(unit, theirs, self.store):
                areas[unit.label.attack] = self.retrain_areas[unit.label.attack]
            else:
                notes.append(f"{unit.label.attack}: no difference to Retrain: another fitted attacker scored that row")
        return areas, notes

    def _harm(self, row: Row) -> Harm | None:
        if row.collateral is None or not self.store.has(row.collateral.key):
            return None
        found = stored_harm(self.store, row.collateral.key)
        return found.named(self.data.dataset.class_names, self.group, self.data.group_names)

    def _distances(self, row: Row) -> Distances | None:
        if row.distance is None or not self.store.has(row.distance.key):
            return None
        meta = self.store.meta(row.distance.key)
        gaps = {name: Gap.from_json(between) for name, between in meta["gaps"].items()}
        return Distances(meta["metrics"], meta["worst_samples"], meta["notes"], meta["models"], gaps)


def _sources(row: Row) -> dict[str, str]:
    """Returns, for each model under test by its id, the name of the trained model that it was made
    from."""
    return {
        unit.label.model_id: unit.label.model_id if row.method == RETRAIN else f"original-{unit.label.source:03d}"
        for unit in row.targets
    }


def _incremental(made: Mapping[Unit, Record]) -> dict[str, Measure]:
    """Returns what a stress test measures: where models fail, how far moments drift, what
    fine-tuning brings back.

    `failing_point` has no value where a model got through all steps.
    `failing_point_least` is then what all of them withstood.
    """
    chains = {}
    for unit, meta in made.items():
        if meta["steps"]:
            chains[f"original-{unit.label.source:03d}"] = (meta["steps"], meta["spec"]["params"].get("fail_points"))
    if not chains:
        return {}
    points = {name: failing_point(steps, limit) for name, (steps, limit) in chains.items()}
    failed = {name: float(point) for name, point in points.items() if point is not None}
    least = {name: failed.get(name, float(steps[-1]["per_class"])) for name, (steps, _) in chains.items()}
    drifts = {name: max((step.get("drift") or 0.0) for step in steps) for name, (steps, _) in chains.items()}
    recovered = {name: steps[-1].get("recovered_test_accuracy") for name, (steps, _) in chains.items()}
    errors = {name: 100.0 * (1.0 - value) for name, value in recovered.items() if value is not None}
    audits = {name: [s["audit_auc"] for s in steps if "audit_auc" in s] for name, (steps, _) in chains.items()}
    audited = {name: float(values[-1]) for name, values in audits.items() if values}
    return {
        "failing_point": mean_measure(failed if len(failed) == len(chains) else {}, 0.0),
        "failing_point_least": mean_measure(least, 0.0),
        "error_recovered": mean_measure(errors, 0.0, 100.0),
        "moment_drift": mean_measure(drifts if any(drifts.values()) else {}, 0.0),
        **({"stress_auc": mean_measure(audited, 0.0, 1.0)} if audited else {}),
    }


def _problems(row: Row, store: Store, failures: Mapping[str, str]) -> list[str]:
    """Returns why units of this row are missing: their own failure, or that of what they need."""
    found = []
    for unit in (*row.producers, *row.targets, *row.companions, *row.measures):
        if store.has(unit.key):
            continue
        causes = [*unit.ancestors().values(), unit]
        reason = next((failures[cause.key] for cause in causes if cause.key in failures), None)
        culprit = next((cause.name for cause in causes if cause.key in failures), unit.name)
        found.append(f"{culprit}: {reason}" if reason else f"{unit.name}: {NOT_DONE}")
    return list(dict.fromkeys(found))


def error_measure(percents: Mapping[str, float], samples: int) -> Measure:
    """Returns the mean of models' error rates with its 95 % interval over models.

    **Arguments:** `percents`: by model. `samples`: how many each was measured on.
    """
    if not percents:
        return Measure(None)
    values = np.asarray(list(percents.values()))
    interval = None
    if len(values) > 1:
        rows = np.full(len(values), float(samples))
        interval = [100.0 * bound for bound in share_interval(Shares(values / 100.0 * rows, rows))]
    return Measure.of(float(values.mean()), interval, percents, len(values))


def _mean_seconds(metas: Iterable[Record]) -> float | None:
    """Returns the mean seconds that making one model took; for methods on moments, with the
    decomposition as if made alone."""
    seconds = [float(meta["seconds"]) + float(meta.get("basis_seconds", 0.0)) for meta in metas]
    return float(np.mean(seconds)) if seconds else None


def _mean_epochs(metas: Iterable[Record]) -> float | None:
    counts = [max((row["epoch"] for row in meta["history"] if "epoch" in row), default=0) for meta in metas]
    return float(np.mean(counts)) if counts else None


def environment(
    data: ExperimentData,
    store: Store,
    work: Work,
    where: str,
    rows: Sequence[ResultRow],
    previous: Results | None,
) -> Environment:
    """Returns the facts about what ran where, on what.

    An invocation that executes nothing keeps what the `previous` results say of code and machine:
    they made the numbers.
    """
    attack = next((row.attacks[PRIMARY].to_json() for row in rows if PRIMARY in row.attacks), None)
    known, git = versions(), git_state()
    hardware: Hardware = {
        "where": where,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpus": _cpus(),
    }
    before = previous["environment"] if previous is not None else None
    if not work["units_executed"] and before is not None and {"versions", "git", "hardware"} <= set(before):
        known, git, hardware = before["versions"], before["git"], before["hardware"]
    facts: Environment = {
        "work": work,
        "versions": known,
        "git": git,
        "hardware": hardware,
        "attack": attack,
        "store": store.uri,
        **data.summary(),
    }
    if data.ids is not None:
        facts["sample_ids"] = _sample_ids(rows, data.ids)
    return facts


def _sample_ids(rows: Sequence[ResultRow], ids: np.ndarray) -> dict[str, str]:
    """Returns the source's own ids of the samples that stand out in any row."""
    listed = [sample["sample_id"] for row in rows for worst in row.worst_samples.values() for sample in worst]
    listed += [int(each.what) for row in rows if row.harm is not None for each in row.harm.samples]
    return {str(number): str(ids[number]) for number in sorted({int(each) for each in listed if each is not None})}


def write_results(
    folder: Path,
    recipe: Recipe,
    rows: Sequence[ResultRow],
    curves: Curves,
    stages: dict[str, float],
    facts: Environment,
) -> Results:
    """Writes `results.json` and `curves.json`; returns the results document."""
    document: Results = {
        "schema": SCHEMA_VERSION,
        "recipe": recipe.document,
        "rows": [row.to_json() for row in rows],
        "stages": stages,
        "environment": facts,
    }
    write_synced(folder / "curves.json", json.dumps(finite(curves)).encode())
    document = finite(document)
    write_synced(folder / "results.json", json.dumps(document, indent=1).encode())
    return document
