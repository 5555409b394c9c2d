"""Fitting attackers and scoring methods with them: the bridge between units and the `attack` package."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from .options import build
from .outputs import labelled_tables
from .store import Attempt, Store
from .units import Unit

CURVE_POINTS = 400
CONFIDENCE_BINS = 40


def fit_candidate(unit: Unit, store: Store, attempt: Attempt, threads: int) -> dict[str, Any]:
    """Fits one candidate of an attack on the train and validation folds and writes the fitted attacker."""
    from attack import ATTACKS

    attack = build(ATTACKS[unit.spec["attack"]], unit.spec["params"])
    table = pa.concat_tables(labelled_tables(store, unit.spec["outputs"]))
    fitted = attack.fit(table)
    return save_fitted(fitted, attempt, path="in_process", rows=len(table))


def save_fitted(fitted: Any, attempt: Attempt, path: str, rows: int) -> dict[str, Any]:
    """Writes a fitted attacker into an attempt and returns its metadata."""
    fitted.save(attempt.folder)
    return {
        "path": path,
        "rows": rows,
        "validation_f1": float(fitted.validation_f1),
        "threshold": float(fitted.threshold),
        "notes": list(fitted.notes),
    }


def best_candidate(store: Store, keys: list[str]) -> str:
    """Returns the key of the candidate with the best validation F1; of equals, the one that is listed first."""
    scored = [(store.meta(key)["validation_f1"], -index, key) for index, key in enumerate(keys) if store.has(key)]
    if not scored:
        raise RuntimeError("no candidate of this attack could be fitted")
    return max(scored)[2]


def score_row(unit: Unit, store: Store, attempt: Attempt) -> dict[str, Any]:
    """Scores one row's models (positive) against the test-fold retrained models (negative)."""
    from attack import ATTACKS, evaluate
    from attack.evaluation import Scores

    spec = unit.spec
    attack_class = ATTACKS[spec["attack"]]
    attack = build(attack_class, spec["params"])
    threshold = None
    chosen: dict[str, Any] = {}
    if spec["candidates"]:
        best = best_candidate(store, list(spec["candidates"]))
        meta = store.meta(best)
        fitted = attack_class.load(store.folder(best))
        threshold = meta["threshold"]
        chosen = {
            "path": meta["path"],
            "params": meta["spec"]["params"],
            "validation_f1": meta["validation_f1"],
            "rows": meta["rows"],
            "notes": meta["notes"],
        }
    else:
        fitted = attack.fit(pa.concat_tables(labelled_tables(store, spec["fit"])))
        chosen = {"path": "in_process", "params": spec["params"], "notes": list(getattr(fitted, "notes", []))}

    def scored(items: list[list[str]], role: str) -> Any:
        table = pa.concat_tables(labelled_tables(store, [[key, role, "test", model_id] for key, model_id in items]))
        return Scores(
            np.asarray(fitted.score(table), dtype=np.float64),
            np.asarray(table["model_id"].to_pylist()),
            table["sample_id"].to_numpy(),
        )

    positive = scored(spec["positive"], "unlearned")
    negative = scored(spec["negative"], "retrained")
    evaluation = evaluate(positive, negative, threshold=threshold, seed=spec["seed"])
    curve = evaluation.roc
    keep = np.unique(np.linspace(0, len(curve.fpr) - 1, CURVE_POINTS).round().astype(int))
    # The corner of very low FPR decides the log-log figure: keep all of its points.
    keep = np.unique(np.concatenate([keep, np.arange(min(100, len(curve.fpr)))]))
    edges = (
        np.linspace(0.0, 1.0, CONFIDENCE_BINS + 1) if spec["candidates"] else _edges(positive.scores, negative.scores)
    )
    curves = {
        "roc": {"fpr": curve.fpr[keep].tolist(), "tpr": curve.tpr[keep].tolist()},
        "confidence": {
            "edges": edges.tolist(),
            "unlearned": np.histogram(positive.scores, edges)[0].tolist(),
            "retrained": np.histogram(negative.scores, edges)[0].tolist(),
        },
    }
    attempt.path("curves.json").write_text(json.dumps(curves))
    return {"metrics": evaluation.metrics, "ci": evaluation.ci, "verdict": evaluation.verdict, "attack": chosen}


def _edges(*scores: np.ndarray) -> np.ndarray:
    joined = np.concatenate(scores)
    finite = joined[np.isfinite(joined)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    return np.linspace(low, high if high > low else low + 1.0, CONFIDENCE_BINS + 1)
