"""The paper's shadow attack: XGBoost on softmax ⊕ one-hot label, split by model.

A population attack: one classifier for all samples. It is known to overestimate privacy, so per-sample attacks belong
beside it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .features import shadow_features
from .outputs import text_column

MODEL_FILE = "attacker.ubj"
FACTS_FILE = "attacker.json"


@dataclass(frozen=True)
class XGBoostAttack:
    """Gradient-boosted trees that tell outputs on trained-on samples from outputs on unseen ones.

    **Arguments:**

    - `max_depth`, `subsample`, `reg_lambda`, `min_child_weight`, `eta`: XGBoost's own; the defaults are those of the
        paper's public release.
    - `rounds`: most trees; `early_stopping`: rounds without a better validation log-loss before it stops.
    - `seed`: of the row sampling.
    """

    name: ClassVar[str] = "xgboost"
    per_method: ClassVar[bool] = False

    max_depth: int = 10
    subsample: float = 0.8
    reg_lambda: float = 10.0
    min_child_weight: float = 0.1
    eta: float = 0.2
    rounds: int = 300
    early_stopping: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = {
            "max_depth": (1, 64),
            "subsample": (0.01, 1.0),
            "reg_lambda": (0.0, 1e9),
            "min_child_weight": (0.0, 1e9),
            "eta": (1e-6, 1.0),
            "rounds": (1, 100_000),
            "early_stopping": (1, 100_000),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not allowed; give {low:g} to {high:g}")

    @staticmethod
    def candidates() -> list[dict[str, Any]]:
        """Returns the settings that tuning tries: the release's own, and shallower and slower ones for small data."""
        return [
            {"max_depth": 10, "eta": 0.2, "min_child_weight": 0.1},
            {"max_depth": 10, "eta": 0.05, "min_child_weight": 0.1},
            {"max_depth": 6, "eta": 0.1, "min_child_weight": 1.0},
            {"max_depth": 4, "eta": 0.1, "min_child_weight": 1.0},
            {"max_depth": 3, "eta": 0.05, "min_child_weight": 5.0},
            {"max_depth": 2, "eta": 0.1, "min_child_weight": 5.0},
        ]

    def parameters(self) -> dict[str, Any]:
        """Returns XGBoost's training parameters."""
        return {
            "objective": "binary:logistic",
            "eval_metric": "logloss",
            "tree_method": "hist",
            "max_depth": self.max_depth,
            "subsample": self.subsample,
            "reg_lambda": self.reg_lambda,
            "min_child_weight": self.min_child_weight,
            "eta": self.eta,
            "seed": self.seed,
        }

    def fit(self, outputs: pa.Table, *, threads: int = 1) -> FittedXGBoost:
        """Fits on originals (1) and retrained models (0) of the train fold, stopped and tuned on the validation fold.

        Rows are put in the order of (model, sample) first: the same table in any order gives the same attacker.

        **Raises:** `ValueError` where a role is missing from a fold or a logit is not finite.
        """
        import xgboost

        label_classes = label_count(outputs)
        parts = {}
        for fold in ("train", "validation"):
            table = shadow_rows(outputs, fold)
            parts[fold] = (
                shadow_features(table, label_classes),
                (text_column(table, "role") == "original").astype(np.float32),
            )
        notes = constant_feature_notes(parts["train"][0])
        train = xgboost.QuantileDMatrix(*parts["train"], nthread=threads)
        validation = xgboost.QuantileDMatrix(*parts["validation"], ref=train, nthread=threads)
        booster = xgboost.train(
            {**self.parameters(), "nthread": threads},
            train,
            num_boost_round=self.rounds,
            evals=[(validation, "validation")],
            early_stopping_rounds=self.early_stopping,
            verbose_eval=False,
        )
        booster = booster[: booster.best_iteration + 1]
        scores = booster.predict(validation).astype(np.float64)
        threshold, f1 = best_f1(parts["validation"][1], scores)
        return FittedXGBoost(self, booster, label_classes, threshold, f1, notes)

    @staticmethod
    def load(folder: Path) -> FittedXGBoost:
        """Returns the attacker that `FittedXGBoost.save` wrote into `folder`."""
        import xgboost

        facts = json.loads((folder / FACTS_FILE).read_text())
        booster = xgboost.Booster()
        booster.load_model(folder / MODEL_FILE)
        return FittedXGBoost(
            XGBoostAttack(**facts["attack"]),
            booster,
            facts["label_classes"],
            facts["threshold"],
            facts["validation_f1"],
            facts["notes"],
        )


@dataclass(frozen=True)
class FittedXGBoost:
    """A fitted shadow attacker."""

    attack: XGBoostAttack
    booster: Any
    label_classes: int
    threshold: float
    validation_f1: float
    notes: list[str] = field(default_factory=list)

    def score(self, outputs: pa.Table) -> np.ndarray:
        """Returns the probability that each row's sample was trained on, float64 `(rows,)`."""
        features = shadow_features(outputs, self.label_classes)
        return np.asarray(self.booster.inplace_predict(features), dtype=np.float64)

    def save(self, folder: Path) -> None:
        """Writes the attacker into `folder`."""
        self.booster.save_model(folder / MODEL_FILE)
        facts = {
            "attack": asdict(self.attack),
            "label_classes": self.label_classes,
            "threshold": self.threshold,
            "validation_f1": self.validation_f1,
            "notes": self.notes,
        }
        (folder / FACTS_FILE).write_text(json.dumps(facts))


def shadow_rows(outputs: pa.Table, fold: str) -> pa.Table:
    """Returns the fold's rows of originals and retrained models in the order of (model, sample).

    **Raises:** `ValueError` where a role has no row in the fold.
    """
    mask = pc.and_(
        pc.equal(outputs["fold"], fold), pc.is_in(outputs["role"], value_set=pa.array(["original", "retrained"]))
    )
    table = outputs.filter(mask)
    present = set(pc.unique(table["role"]).to_pylist())
    for role in ("original", "retrained"):
        if role not in present:
            raise ValueError(
                f"role: no {role!r} rows in fold {fold!r}; the shadow attack needs models of both roles there"
            )
    return table.sort_by([("model_id", "ascending"), ("sample_id", "ascending")])


def label_count(outputs: pa.Table) -> int:
    """Returns how many classes the one-hot label needs: those that the logits and the labels tell of."""
    top = pc.max(outputs["label"]).as_py()
    return max(outputs["logits"].type.list_size, (top if top is not None else -1) + 1)


def best_f1(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Returns the threshold on `scores` (predict member where score ≥ threshold) with the best F1, and that F1.

    Of equal ones the highest threshold.
    """
    order = np.argsort(-scores, kind="stable")
    truth, values = labels[order], scores[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    true_positives = np.cumsum(truth)[last_of_tie]
    predicted = last_of_tie + 1
    f1 = 2.0 * true_positives / (predicted + truth.sum())
    best = int(np.argmax(f1))
    return float(values[last_of_tie[best]]), float(f1[best])


def constant_feature_notes(features: np.ndarray) -> list[str]:
    """Returns a note where the model outputs do not vary: an attack on constant features says nothing."""
    varying = (features != features[:1]).any(axis=0)
    if not varying.any():
        return ["every feature is constant: the attack saw nothing and its AUC means nothing"]
    return []
