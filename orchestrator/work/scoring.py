"""Fitting attackers, scoring methods with them, distances to retrained models: the bridge between
units and the `attack` package."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from attack import ATTACKS
from attack.attacks.base import Fitted
from attack.audit.judged import judged, tuned_threshold
from attack.audit.rows import Scored
from attack.distances.compare import distances
from attack.metrics.areas import Areas
from attack.metrics.evaluation import Scores
from attack.metrics.row import Attacker
from attack.outputs.measured import MODEL_ID, ROLE, Measured
from attack.outputs.sources import Tables
from attack.outputs.survey import Survey

from ..base.values import Record, digest
from ..plan.facts import AttackFacts
from ..plan.specs import AttackSpec, DistanceSpec, Judged, Outputs, ScoreSpec
from ..plan.units import Unit
from ..recipe.options import settings_of
from ..store import Attempt, Store
from .outputs import labelled_tables

# of a score unit: the AUC of every pair of models, from which `results` takes differences
AREAS = "areas.json"
# What two scores must have in common for their AUCs to be subtracted.
SAME_ATTACKER = ("attack", "params", "candidates", "fit", "negative")
# the same of Retrain's models under an attacker that is fitted for this row
REFERENCE = "reference.json"


def fit_candidate(spec: AttackSpec, store: Store, attempt: Attempt) -> AttackFacts:
    """Fits one candidate of an attack on the train and validation folds and writes the fitted
    attacker."""
    table = pa.concat_tables(labelled_tables(store, spec.outputs))
    fitted = spec.params.fit(table)
    return save_fitted(fitted, attempt, path="in_process", rows=len(table))


def save_fitted(fitted: Fitted, attempt: Attempt, path: str, rows: int) -> AttackFacts:
    """Writes a fitted attacker into an attempt and returns the facts about it."""
    if fitted.threshold is None or fitted.validation_f1 is None:
        raise ValueError(f"{fitted.attack.name}: a tuned attack needs a threshold and its F1 on validation models")
    fitted.save(attempt.folder)
    return AttackFacts(path, rows, float(fitted.validation_f1), float(fitted.threshold), list(fitted.notes))


def best_candidate(store: Store, keys: list[str]) -> str:
    """Returns the key of the candidate with the best validation F1; of equals, the one that is
    listed first."""
    scored = [(store.meta(key)["validation_f1"], -index, key) for index, key in enumerate(keys) if store.has(key)]
    if not scored:
        raise RuntimeError("no candidate of this attack could be fitted")
    return max(scored)[2]


@dataclass(frozen=True)
class _Ready:
    """An attacker that is fitted, and its scores of the retrained models that all rows are held
    against."""

    fitted: Fitted
    facts: Attacker
    negative: Scores


Cache = Callable[[str, Callable[[], _Ready]], _Ready]


def score_row(unit: Unit[ScoreSpec], store: Store, attempt: Attempt, cached: Cache = lambda _, make: make()) -> Record:
    """Scores one row's models (positive) against the test-fold retrained models (negative).

    **Arguments:** `cached`: returns what it made before under the same key. Rows with the same
    attacker then have it fitted once.
    """
    spec = unit.spec
    candidate = best_candidate(store, list(spec.candidates)) if spec.candidates else ""
    known = spec.identity()
    # Of the unseen images, those of the models under test are a row's own, and nothing is fitted on
    # them.
    shared = [list(item) for item in spec.population if item.role != "unlearned"]
    alike = [candidate, *(known[name] for name in SAME_ATTACKER), *([shared] if shared else [])]
    ready = cached(f"attacker {digest(alike)}", lambda: _ready(spec, store, candidate))
    positive, negative = _scored(ready.fitted, spec, store, spec.positive, "unlearned"), ready.negative
    evaluation, curves = judged(spec.attack, positive, negative, threshold=ready.facts.threshold, seed=spec.seed)
    attempt.path("curves.json").write_text(json.dumps(curves))
    attempt.path(AREAS).write_text(json.dumps(evaluation.areas.to_json()))
    if spec.reference:
        reference = _scored(ready.fitted, spec, store, spec.reference, "unlearned")
        areas = Areas.of(reference.by_model()[1], negative.by_model()[1], evaluation.areas.negative_models)
        attempt.path(REFERENCE).write_text(json.dumps(areas.to_json()))
    models = sorted(model_id for _, model_id in spec.positive)
    found = Scored.of(spec.attack, evaluation, positive, negative, ready.facts, models, seed=spec.seed)
    return {**found.to_json(), "candidate": candidate}


def _ready(spec: ScoreSpec, store: Store, candidate: str) -> _Ready:
    """Returns the stored candidate, or the attack fitted now."""
    if candidate:
        meta = store.meta(candidate)
        fitted = ATTACKS[spec.attack].load(store.folder(candidate))
        facts = Attacker.from_json({**meta, "params": meta["spec"]["params"]})
    else:
        fitted = spec.params.fit(pa.concat_tables(labelled_tables(store, spec.fit)), **_population(spec, store))
        threshold, notes = _threshold(spec, store, fitted)
        told = (*fitted.notes, *notes)
        facts = Attacker("in_process", settings_of(spec.params), fitted.validation_f1, threshold, told)
    return _Ready(fitted, facts, _scored(fitted, spec, store, spec.negative, "retrained"))


def _scored(fitted: Fitted, spec: ScoreSpec, store: Store, items: Sequence[Judged], role: str) -> Scores:
    """Returns the scores of models of the test fold."""
    sides = [Outputs(key, role, "test", model_id) for key, model_id in items]
    table = pa.concat_tables(labelled_tables(store, sides))
    return Scores(
        np.asarray(fitted.score(table, **_population(spec, store)), dtype=np.float64),
        np.asarray(table["model_id"].to_pylist()),
        table["sample_id"].to_numpy(),
    )


def _population(spec: ScoreSpec, store: Store) -> dict[str, pa.Table]:
    """Returns the unseen images that calibrate an attack, as its keyword; nothing where it takes
    none."""
    if not spec.population:
        return {}
    return {"population": pa.concat_tables(labelled_tables(store, spec.population, only="validation"))}


def stored_score(unit: Unit[ScoreSpec], store: Store, sources: Mapping[str, str]) -> Scored:
    """Returns what a finished score unit measured.

    **Arguments:** `sources`: model id → the trained model that it was made from.
    """
    names = [sources[model_id] for model_id in sorted(model_id for _, model_id in unit.spec.positive)]
    retrain = areas_of(unit, store, REFERENCE) if unit.spec.reference else None
    return Scored.from_json(unit.spec.attack, store.meta(unit.key), names, areas_of(unit, store, AREAS), retrain)


def same_attacker(unit: Unit[ScoreSpec], reference: Unit[ScoreSpec], store: Store) -> bool:
    """Says whether one fitted attacker scored both against the same retrained models.

    It did not where a candidate failed once, was made since, and was chosen for one of them only.
    """
    mine, theirs = unit.spec.identity(), reference.spec.identity()
    if any(mine[name] != theirs[name] for name in SAME_ATTACKER):
        return False
    return bool(store.meta(unit.key)["candidate"] == store.meta(reference.key)["candidate"])


def areas_of(unit: Unit[ScoreSpec], store: Store, file: str) -> Areas:
    """Returns the AUCs that a finished score unit wrote into `file`."""
    return Areas.from_json(json.loads(store.fetch(unit.key, file).read_text()))


def measured_outputs(store: Store, items: Iterable[Outputs], only: str = "") -> Measured:
    """Returns φ and the entropy of stored outputs, each named once.

    Raises `ValueError` where a logit is not finite.
    """
    survey = Survey.of(Tables(tuple(labelled_tables(store, dict.fromkeys(items), only))))
    if survey.not_finite is not None:
        bad = survey.not_finite
        raise ValueError(f"logits: {bad.count} rows are not finite, the first for {bad}")
    return survey.measured()


def measure_distances(unit: Unit[DistanceSpec], store: Store) -> Record:
    """Compares one row's models with retrained ones, sample by sample, on the outputs that the unit
    names."""

    spec = unit.spec
    sides = {
        "tested": spec.tested,
        "negative": spec.negative,
        "models": spec.models,
        "retrained": spec.retrained,
        "originals": spec.originals,
    }
    # those of the test fold are on two sides
    items = [item for side in sides.values() for item in side]
    measured = measured_outputs(store, items)
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
        "models": found.models,
        "gaps": {name: vars(between) for name, between in found.gaps.items()},
    }


def _threshold(spec: ScoreSpec, store: Store, fitted: Fitted) -> tuple[float | None, list[str]]:
    """Returns the threshold of an attacker that `spec.fit` was for, tuned on its validation models
    where it has none."""

    role = "unlearned" if ATTACKS[spec.attack].per_method else "original"
    sides = [
        [item for item in spec.fit if (item.role, item.fold) == (side, "validation")] for side in (role, "retrained")
    ]

    def scores() -> list[np.ndarray]:
        tables = [pa.concat_tables(labelled_tables(store, side)) for side in sides]
        more = _population(spec, store)
        return [np.asarray(fitted.score(table, **more), dtype=np.float64) for table in tables]

    return tuned_threshold(spec.attack, fitted, len(sides[0]), len(sides[1]), scores)
