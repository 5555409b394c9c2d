"""Fitting attackers, scoring methods with them, distances to retrained models: the bridge between units and the `attack` package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

from attack.metrics.tiny import tiny_scores

from ..plan.facts import AttackFacts
from ..plan.specs import AttackSpec, DistanceSpec, Judged, Outputs, ScoreSpec
from ..plan.units import Unit
from ..recipe.options import settings_of
from ..store import Attempt, Store
from .outputs import labelled_tables

AREAS = "areas.json"  # of a score unit: the AUC of every pair of models, from which `results` takes differences
# What two scores must have in common for their AUCs to be subtracted.
SAME_ATTACKER = tuple(attrgetter(name) for name in ("attack", "params", "candidates", "fit", "negative"))
REFERENCE = "reference.json"  # the same of Retrain's models under an attacker that is fitted for this row


def fit_candidate(spec: AttackSpec, store: Store, attempt: Attempt) -> AttackFacts:
    """Fits one candidate of an attack on the train and validation folds and writes the fitted attacker."""
    table = pa.concat_tables(labelled_tables(store, spec.outputs))
    fitted = spec.params.fit(table)
    return save_fitted(fitted, attempt, path="in_process", rows=len(table))


def save_fitted(fitted: Any, attempt: Attempt, path: str, rows: int) -> AttackFacts:
    """Writes a fitted attacker into an attempt and returns the facts about it."""
    fitted.save(attempt.folder)
    return AttackFacts(path, rows, float(fitted.validation_f1), float(fitted.threshold), list(fitted.notes))


def best_candidate(store: Store, keys: list[str]) -> str:
    """Returns the key of the candidate with the best validation F1; of equals, the one that is listed first."""
    scored = [(store.meta(key)["validation_f1"], -index, key) for index, key in enumerate(keys) if store.has(key)]
    if not scored:
        raise RuntimeError("no candidate of this attack could be fitted")
    return max(scored)[2]


def score_row(unit: Unit[ScoreSpec], store: Store, attempt: Attempt) -> dict[str, Any]:
    """Scores one row's models (positive) against the test-fold retrained models (negative)."""
    from attack import ATTACKS
    from attack.audit.judged import judged
    from attack.metrics.evaluation import Areas, Scores, worst_samples

    spec = unit.spec
    chosen: dict[str, Any] = {}
    candidate = ""
    if spec.candidates:
        candidate = best_candidate(store, list(spec.candidates))
        meta = store.meta(candidate)
        fitted = ATTACKS[spec.attack].load(store.folder(candidate))
        threshold: float | None = meta["threshold"]
        chosen = {
            "path": meta["path"],
            "params": meta["spec"]["params"],
            "validation_f1": meta["validation_f1"],
            "rows": meta["rows"],
            "notes": meta["notes"],
        }
    else:
        fitted = spec.params.fit(pa.concat_tables(labelled_tables(store, spec.fit)))
        threshold, notes = _threshold(spec, store, fitted)
        chosen = {
            "path": "in_process",
            "params": settings_of(spec.params),
            "validation_f1": getattr(fitted, "validation_f1", None),
            "notes": [*getattr(fitted, "notes", []), *notes],
        }
    chosen["threshold"] = threshold

    def scored(items: Sequence[Judged], role: str) -> Scores:
        sides = [Outputs(key, role, "test", model_id) for key, model_id in items]
        table = pa.concat_tables(labelled_tables(store, sides))
        return Scores(
            np.asarray(fitted.score(table), dtype=np.float64),
            np.asarray(table["model_id"].to_pylist()),
            table["sample_id"].to_numpy(),
        )

    positive = scored(spec.positive, "unlearned")
    negative = scored(spec.negative, "retrained")
    evaluation, curves = judged(spec.attack, positive, negative, threshold=threshold, seed=spec.seed)
    attempt.path("curves.json").write_text(json.dumps(curves))
    attempt.path(AREAS).write_text(json.dumps(evaluation.areas.to_json()))
    if spec.reference:
        reference = scored(spec.reference, "unlearned")
        areas = Areas.of(reference.by_model()[1], negative.by_model()[1], evaluation.areas.negative_models)
        attempt.path(REFERENCE).write_text(json.dumps(areas.to_json()))
    tiny, tiny_interval, tiny_by_model = tiny_scores(positive, negative, spec.seed)
    return {
        "metrics": {**evaluation.metrics, "tiny_scores": tiny},
        "ci": {**evaluation.ci, **({} if tiny_interval is None else {"tiny_scores": tiny_interval})},
        "by_model": {"auc": evaluation.areas.by_model().tolist(), "tiny_scores": tiny_by_model},
        "worst_samples": worst_samples(positive, negative),
        "candidate": candidate,
        "attack": chosen,
        "notes": list(evaluation.notes),
    }


def difference_to(
    reference: Unit[ScoreSpec] | None, unit: Unit[ScoreSpec], store: Store, seed: int
) -> tuple[float, list[float] | None] | None:
    """Returns by how much the AUC of `unit`, a score, exceeds Retrain's by the same attacker, with its interval.

    **Arguments:** `reference`: Retrain's score by the same attack; None for an attack that is fitted for each row, which has put its
    attacker to Retrain's models itself.

    None where the two were not scored by one fitted attacker against the same retrained models: a candidate that failed once
    and was made since may have been chosen for one of them only.
    """
    from attack.metrics.evaluation import Areas, paired_difference

    def areas(of: Unit, file: str) -> Areas:
        return Areas.from_json(json.loads(store.fetch(of.key, file).read_text()))

    mine = areas(unit, AREAS)
    if reference is None:
        return paired_difference(mine, areas(unit, REFERENCE), seed=seed)
    if any(of(unit.spec) != of(reference.spec) for of in SAME_ATTACKER):
        return None
    if store.meta(unit.key)["candidate"] != store.meta(reference.key)["candidate"]:
        return None
    return paired_difference(mine, areas(reference, AREAS), seed=seed)


def measure_distances(unit: Unit[DistanceSpec], store: Store) -> dict[str, Any]:
    """Compares one row's models with retrained ones, sample by sample, on the outputs that the unit names."""
    from attack.distances.compare import distances
    from attack.outputs.measured import MODEL_ID, ROLE
    from attack.outputs.sources import Tables
    from attack.outputs.survey import Survey

    spec = unit.spec
    sides = {
        "tested": spec.tested,
        "negative": spec.negative,
        "models": spec.models,
        "retrained": spec.retrained,
        "originals": spec.originals,
    }
    items = dict.fromkeys(item for side in sides.values() for item in side)  # those of the test fold are on two sides
    survey = Survey.of(Tables(tuple(labelled_tables(store, items))))
    if survey.not_finite is not None:
        bad = survey.not_finite
        raise ValueError(f"logits: {bad.count} rows are not finite, the first for {bad}")
    measured = survey.measured()
    places = {(model[ROLE], model[MODEL_ID]): place for place, model in enumerate(measured.models)}
    indices = {
        name: np.sort(np.asarray([places[item.role, item.model_id] for item in side], dtype=np.int64))
        for name, side in sides.items()
    }
    divergences = [divergence for _, divergence in spec.divergences]
    found = distances(measured, **indices, divergences=divergences)
    return {
        "metrics": found.metrics,
        "worst_samples": found.worst_samples,
        "notes": found.notes,
        "models": len(spec.models),
    }


def _threshold(spec: ScoreSpec, store: Store, fitted: Any) -> tuple[float | None, list[str]]:
    """Returns the threshold of an attacker that `spec.fit` was for, tuned on its validation models where it has none."""
    from attack import ATTACKS
    from attack.audit.judged import tuned_threshold

    role = "unlearned" if ATTACKS[spec.attack].per_method else "original"
    sides = [
        [item for item in spec.fit if (item.role, item.fold) == (side, "validation")] for side in (role, "retrained")
    ]

    def scores() -> list[np.ndarray]:
        tables = [pa.concat_tables(labelled_tables(store, side)) for side in sides]
        return [np.asarray(fitted.score(table), dtype=np.float64) for table in tables]

    return tuned_threshold(spec.attack, fitted, len(sides[0]), len(sides[1]), scores)
