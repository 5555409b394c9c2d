"""From the store to `results.json` and `curves.json`: nothing is computed here that a unit has not measured."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attack.metrics.row import PRIMARY
from attack.metrics.row import Row as ResultRow

from ..base.files import write_synced
from ..base.provenance import _cpus, git_state, versions
from ..base.text import finite
from ..plan.data import ExperimentData
from ..plan.plan import Plan, Row
from ..plan.units import Unit, seed_for
from ..recipe.options import plain
from ..recipe.sections import Recipe
from ..store import Store
from ..work.incremental import failing_point

SCHEMA_VERSION = 1


def collect(
    plan: Plan, data: ExperimentData, store: Store, failures: Mapping[str, str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the result rows and the curves that the figures are drawn from.

    **Arguments:**

    - `failures`: unit key → one line, for units that failed in this or the last invocation.
    """
    from attack.audit.verdicts import judge_rows

    split = data.split
    counts = {"forget": split.forget, "retain": split.retain, "val": split.val, "test": split.test}
    samples = {f"error_{name}": len(indices) for name, indices in counts.items()}
    retrain = next(row for row in plan.rows if row.method == "retrain")
    reference = Reference(
        _mean_seconds(store, retrain.producers),
        {unit.label.attack: unit for unit in retrain.scores if store.has(unit.key)},
    )
    rows: list[dict[str, Any]] = []
    curves: dict[str, Any] = {"roc": [], "confidence": [], "training": [], "unlearning": [], "incremental": []}
    for index, row in enumerate(plan.rows):
        rows.append(_row(row, store, failures, reference, samples, plan.recipe.seed))
        for unit in row.scores:
            if not store.has(unit.key):
                continue
            curve = json.loads(store.fetch(unit.key, "curves.json").read_text())
            for kind in ("roc", "confidence"):
                curves[kind].append({"row": index, "attack": unit.label.attack, **curve[kind]})
        for unit in row.producers:
            if unit.kind == "unlearn" and store.has(unit.key):
                meta = store.meta(unit.key)
                curves["unlearning"].append(
                    {"row": index, "model_id": unit.name, "stopped_at": meta["stopped_at"], "history": meta["history"]}
                )
                if meta["steps"]:
                    curves["incremental"].append({"row": index, "model_id": unit.name, "steps": meta["steps"]})
    for unit in plan.stages["train"]:
        if store.has(unit.key):
            curves["training"].append(
                {"model_id": unit.name, "role": unit.label.role, "history": store.meta(unit.key)["history"]}
            )
    for document, verdict in zip(rows, judge_rows([ResultRow.from_json(row) for row in rows]), strict=True):
        if verdict is not None:
            document["verdict"] = verdict.told(len(document["attacks"]))
    return rows, curves


@dataclass(frozen=True)
class Reference:
    """What other rows are held against: Retrain's seconds a model, and its stored scores by attack."""

    seconds: float | None
    scores: Mapping[str, Unit]


def _row(
    row: Row,
    store: Store,
    failures: Mapping[str, str],
    reference: Reference,
    samples: Mapping[str, int],
    seed: int,
) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    intervals: dict[str, list[float]] = {}
    by_model: dict[str, list[float]] = {}
    done = [unit for unit in row.targets if store.has(unit.key)]
    problems = _problems(row, store, failures)
    for name, count in samples.items():
        values = [store.meta(unit.key)["errors"].get(name) for unit in done]
        known = [float(value) for value in values if value is not None]
        metrics[name] = float(np.mean(known)) if known else None
        if known:
            by_model[name] = known
        if len(known) > 1:
            intervals[name] = error_interval(known, count)
    metrics["seconds_per_model"] = None if row.method == "no_unlearn" else _mean_seconds(store, row.producers)
    metrics["speedup_vs_retrain"] = None
    if metrics["seconds_per_model"] and reference.seconds:
        metrics["speedup_vs_retrain"] = reference.seconds / metrics["seconds_per_model"]
    metrics["epochs"] = _mean_epochs(store, row.producers) if row.method != "no_unlearn" else None
    _add_incremental(row, store, metrics, intervals, by_model)
    attack_info, notes, negatives = {}, [], 0
    worst: dict[str, Any] = {}
    for unit in row.scores:
        if not store.has(unit.key):
            continue
        meta = store.meta(unit.key)
        prefix = "" if unit.label.attack == PRIMARY else f"{unit.label.attack}/"
        metrics.update({f"{prefix}{name}": value for name, value in meta["metrics"].items()})
        intervals.update({f"{prefix}{name}": value for name, value in meta["ci"].items()})
        negatives = len(unit.spec.negative)
        attack_info[unit.label.attack] = meta["attack"]
        notes += meta["notes"]
        by_model.update({f"{prefix}{name}": values for name, values in meta["by_model"].items()})
        worst[unit.label.attack] = meta["worst_samples"]
        notes += _add_difference(unit, reference, store, seed, f"{prefix}auc_minus_retrain", metrics, intervals)
    distance = None if row.distance is None or not store.has(row.distance.key) else store.meta(row.distance.key)
    if distance is not None:
        metrics.update(distance["metrics"])
        worst.update(distance["worst_samples"])
        notes += distance["notes"]
    for unit in row.producers:
        if unit.kind == "unlearn" and store.has(unit.key):
            notes += store.meta(unit.key)["notes"]
    result: dict[str, Any] = {
        "method": row.method,
        "params": plain(row.params),
        "metrics": metrics,
        "ci": intervals,
        "status": "failed" if problems else "done",
        "seconds": metrics["seconds_per_model"],
        "verdict": "",
        "models": len(done),
        "by_model": by_model,
    }
    if problems:
        result["error"] = problems[0] if len(problems) == 1 else f"{problems[0]} (and {len(problems) - 1} more)"
    if notes:
        result["notes"] = sorted(set(notes))
    if worst:
        result["worst_samples"] = worst
    if distance is not None:
        result["distance_models"] = distance["models"]
    if attack_info:
        result["attacks"] = attack_info
        result["retrained_models"] = negatives
    return result


def _add_difference(
    score: Unit,
    reference: Reference,
    store: Store,
    seed: int,
    name: str,
    metrics: dict[str, Any],
    intervals: dict[str, list[float]],
) -> list[str]:
    """Adds an AUC's difference to Retrain's by the same attack, with its interval; returns notes on why there is none.

    Retrain's own row has none.
    """
    from ..work.scoring import difference_to

    theirs = reference.scores.get(score.label.attack)
    if (theirs is None and not score.spec.reference) or (theirs is not None and theirs.key == score.key):
        return []
    found = difference_to(theirs, score, store, seed_for(seed, name))
    if found is None:
        return [f"{score.label.attack}: no difference to Retrain: another fitted attacker scored that row"]
    metrics[name], interval = found
    if interval is not None:
        intervals[name] = interval
    return []


def _add_incremental(
    row: Row,
    store: Store,
    metrics: dict[str, Any],
    intervals: dict[str, list[float]],
    by_model: dict[str, list[float]],
) -> None:
    """Adds what a stress test measures: where models fail, how far moments drift, what fine-tuning brings back.

    `failing_point` is null where a model got through all steps; `failing_point_least` is then what all of them withstood.
    """
    from attack.metrics.t_intervals import mean_interval

    metas = [store.meta(unit.key) for unit in row.producers if unit.kind == "unlearn" and store.has(unit.key)]
    chains = [(meta["steps"], meta["spec"]["params"].get("fail_points")) for meta in metas if meta["steps"]]
    if not chains:
        return
    points = [failing_point(steps, limit) for steps, limit in chains]
    drifts = [max((step.get("drift") or 0.0) for step in steps) for steps, _ in chains]
    recovered = [steps[-1].get("recovered_test_accuracy") for steps, _ in chains]
    found: dict[str, list[float]] = {
        "failing_point": [] if None in points else [float(point) for point in points if point is not None],
        "failing_point_least": [
            float(p if p is not None else s[-1]["per_class"]) for p, (s, _) in zip(points, chains, strict=True)
        ],
        "error_recovered": [100.0 * (1.0 - value) for value in recovered if value is not None],
        "moment_drift": drifts if any(drifts) else [],
    }
    for name, values in found.items():
        metrics[name] = float(np.mean(values)) if values else None
        if values:
            by_model[name] = values
        if len(values) > 1:
            intervals[name] = mean_interval(values, 0.0, 100.0 if name == "error_recovered" else math.inf)


def _problems(row: Row, store: Store, failures: Mapping[str, str]) -> list[str]:
    """Returns why units of this row are missing: their own failure, or that of what they need."""
    found = []
    for unit in (*row.producers, *row.targets, *row.companions, *row.measures):
        if store.has(unit.key):
            continue
        causes = [*unit.ancestors().values(), unit]
        reason = next((failures[cause.key] for cause in causes if cause.key in failures), None)
        culprit = next((cause.name for cause in causes if cause.key in failures), unit.name)
        found.append(f"{culprit}: {reason}" if reason else f"{unit.name}: not done yet")
    return list(dict.fromkeys(found))


def error_interval(percents: Sequence[float], samples: int) -> list[float]:
    """Returns the 95 % interval of the mean of models' error rates, each in percent of `samples`, over models."""
    from attack.metrics.t_intervals import Shares, share_interval

    rows = np.full(len(percents), float(samples))
    return [100.0 * bound for bound in share_interval(Shares(np.asarray(percents) / 100.0 * rows, rows))]


def _mean_seconds(store: Store, producers: Sequence[Unit]) -> float | None:
    """Returns the mean seconds that making one model took; for methods on moments, with the decomposition as if made alone."""
    metas = [store.meta(unit.key) for unit in producers if store.has(unit.key)]
    seconds = [float(meta["seconds"]) + float(meta.get("basis_seconds", 0.0)) for meta in metas]
    return float(np.mean(seconds)) if seconds else None


def _mean_epochs(store: Store, producers: Sequence[Unit]) -> float | None:
    counts = []
    for unit in producers:
        if store.has(unit.key):
            epochs = [row["epoch"] for row in store.meta(unit.key)["history"] if "epoch" in row]
            counts.append(max(epochs, default=0))
    return float(np.mean(counts)) if counts else None


def environment(
    data: ExperimentData,
    store: Store,
    work: dict[str, int],
    where: str,
    rows: list[dict[str, Any]],
    previous: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the facts about what ran where, on what.

    An invocation that executes nothing keeps what the `previous` results say of code and machine: they made the numbers.
    """
    attack = next((row["attacks"][PRIMARY] for row in rows if PRIMARY in row.get("attacks", {})), None)
    facts = {
        "versions": versions(),
        "git": git_state(),
        "hardware": {
            "where": where,
            "machine": platform.machine(),
            "python": platform.python_version(),
            "cpus": _cpus(),
        },
    }
    before = previous.get("environment", {})
    if not work["units_executed"] and set(facts) <= set(before):
        facts = {name: before[name] for name in facts}
    return {"work": work, **facts, "attack": attack, "store": store.uri, **data.summary()}


def write_results(
    folder: Path,
    recipe: Recipe,
    rows: list[dict[str, Any]],
    curves: dict[str, Any],
    stages: dict[str, float],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Writes `results.json` and `curves.json`; returns the results document."""
    document = {
        "schema": SCHEMA_VERSION,
        "recipe": recipe.model_dump(mode="json"),
        "rows": rows,
        "stages": stages,
        "environment": facts,
    }
    write_synced(folder / "curves.json", json.dumps(finite(curves)).encode())
    document = finite(document)
    write_synced(folder / "results.json", json.dumps(document, indent=1).encode())
    return document
