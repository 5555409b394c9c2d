"""Fitting attackers and scoring methods with them: the bridge between units and the `attack` package."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .options import build
from .outputs import labelled_tables
from .store import Attempt, Store
from .units import Unit

if TYPE_CHECKING:
    from attack.evaluation import Scores

CURVE_POINTS = 400
CONFIDENCE_BINS = 40
TINY = 0.05


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
    sizes = evaluation.sizes
    by_model = ((evaluation.auc_matrix * sizes).sum(axis=1) / sizes.sum(axis=1)).tolist()
    tiny, tiny_interval, tiny_by_model = tiny_scores(positive, negative, spec["seed"])
    return {
        "metrics": {**evaluation.metrics, "tiny_scores": tiny},
        "ci": {**evaluation.ci, **({} if tiny_interval is None else {"tiny_scores": tiny_interval})},
        "by_model": {"auc": by_model, "tiny_scores": tiny_by_model},
        "verdict": evaluation.verdict,
        "attack": chosen,
    }


def tiny_scores(positive: Scores, negative: Scores, seed: int) -> tuple[float, list[float] | None, list[float]]:
    """Returns the share of a model's outputs that score under the 5th percentile of retrained models' outputs.

    It is 0.05 where unlearned models cannot be told from retrained ones; a pile of scores that are too small (the
    Streisand effect, supplement Fig. 3) lifts it though the AUC may still look well.

    **Returns:** the mean over models, its 95 % interval over models (None where there is one), the value of each model.
    """
    from .results import bootstrap_mean

    floor = np.quantile(negative.scores, TINY)
    _, by_model = positive.by_model()
    # Tied scores at the floor count in part, so that equal distributions give 0.05 also where scores are coarse.
    under, at = (float((test(negative.scores, floor)).mean()) for test in (np.less, np.equal))
    weight = (TINY - under) / at if at else 0.0
    shares = [float((scores < floor).mean() + weight * (scores == floor).mean()) for scores in by_model]
    interval = bootstrap_mean(shares, seed) if len(shares) > 1 else None
    return float(np.mean(shares)), interval, shares


def _edges(*scores: np.ndarray) -> np.ndarray:
    joined = np.concatenate(scores)
    finite = joined[np.isfinite(joined)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    return np.linspace(low, high if high > low else low + 1.0, CONFIDENCE_BINS + 1)
