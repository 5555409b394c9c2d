"""The paper's shadow attack: XGBoost on softmax ⊕ one-hot label, split by model.

A population attack: one classifier for all samples. It is known to overestimate privacy, so
per-sample attacks belong beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..library import load_xgboost
from ..metrics.roc import best_f1
from ..outputs.table import coded_column, rows_where
from ..settings import check_choice, check_ranges
from .base import Attack, Fitted, Needs
from .features import ENCODINGS, feature_types, shadow_features

MODEL_FILE = "attacker.ubj"
FACTS_FILE = "attacker.json"
CONSTANT = "every feature is constant: the attack saw nothing and its AUC means nothing"
BLOCK_FEATURES = 20_000_000  # feature values built at a time when scoring: 80 MB


@dataclass(frozen=True)
class XGBoostAttack(Attack):
    """Gradient-boosted trees that tell outputs on trained-on samples from outputs on unseen ones.

    **Arguments:**

    - `max_depth`, `subsample`, `reg_lambda`, `min_child_weight`, `eta`: XGBoost's own; the defaults
        are those of the paper's public release.
    - `rounds`: most trees; `early_stopping`: rounds without a better validation log-loss before it
        stops.
    - `seed`: of the row sampling. `threads`: of XGBoost in one process; the result does not depend
        on it.
    - `forget_classes`: in class removal, classes whose logits are dropped before the softmax, for
        tables that hold all classes' logits. Tables of kept classes only need none.
    - `label`: `one_hot`, or `categorical`: one column split by sets of classes, for many classes.
    """

    name = "xgboost"
    reads_label = False
    packages: ClassVar[tuple[str, ...]] = ("xgboost",)
    needs: ClassVar[Needs] = {(role, fold): 1 for role in ("original", "retrained") for fold in ("train", "validation")}

    max_depth: int = 10
    subsample: float = 0.8
    reg_lambda: float = 10.0
    min_child_weight: float = 0.1
    eta: float = 0.2
    rounds: int = 300
    early_stopping: int = 20
    seed: int = 0
    threads: int = 1
    forget_classes: tuple[int, ...] = ()
    label: str = "one_hot"

    def __post_init__(self) -> None:
        object.__setattr__(self, "forget_classes", tuple(self.forget_classes))
        check_choice("label", self.label, ENCODINGS)
        ranges = {
            "max_depth": (1, 64),
            "subsample": (0.01, 1.0),
            "reg_lambda": (0.0, 1e9),
            "min_child_weight": (0.0, 1e9),
            "eta": (1e-6, 1.0),
            "rounds": (1, 100_000),
            "early_stopping": (1, 100_000),
            "seed": (0, 2**31 - 1),
            "threads": (1, 4096),
        }
        check_ranges(self, ranges)

    @classmethod
    def candidates(cls) -> list[dict[str, Any]]:
        """Returns the settings that tuning tries: the release's own, and shallower and slower ones
        for small data."""
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

    def features(self, table: pa.Table, label_classes: int) -> np.ndarray:
        """Returns the table's features, float32 `(rows, features)`."""
        return shadow_features(table, label_classes, self.forget_classes, self.label)

    def fit(self, outputs: pa.Table, *, threads: int | None = None, device: str = "cpu") -> FittedXGBoost:
        """Fits on originals (1) and retrained models (0) of the train fold, stopped and tuned on
        the validation fold.

        Rows are put in the order of (model, sample) first: the same table in any order gives the
        same attacker.

        **Arguments:** `threads`: in place of the field. `device`: `cpu`, or `cuda` with a GPU build
        of XGBoost.

        **Raises:** `ValueError` where a role is missing from a fold, a model is in both folds, or a
        logit is not finite.
        """
        return fit_all(outputs, [self], threads=threads, device=device)[0]

    def fit_prepared(self, prepared: Prepared, threads: int, device: str = "cpu") -> FittedXGBoost:
        """Fits on binned folds, as `fit` makes them."""
        xgboost = load_xgboost()

        booster = xgboost.train(
            {**self.parameters(), "nthread": threads, "device": device},
            prepared.train,
            num_boost_round=self.rounds,
            evals=[(prepared.validation, "validation")],
            early_stopping_rounds=self.early_stopping,
            verbose_eval=False,
        )
        booster = booster[: booster.best_iteration + 1]
        scores = booster.predict(prepared.validation).astype(np.float64)
        threshold, f1 = best_f1(prepared.targets, scores)
        return FittedXGBoost(self, booster, prepared.label_classes, threshold, f1, list(prepared.notes))

    def label_columns(self, label_classes: int) -> int:
        """Returns how many columns of the features are the label's."""
        return label_classes if self.label == "one_hot" else 1

    @classmethod
    def fit_each(
        cls, outputs: pa.Table, attacks: Sequence[Self], *, threads: int | None = None, device: str = "cpu"
    ) -> list[Fitted]:
        """Returns each of `attacks` fitted. Features that several share are built and binned
        once."""
        return list(fit_all(outputs, attacks, threads=threads, device=device))

    @classmethod
    def load(cls, folder: Path) -> FittedXGBoost:
        """Returns the attacker that `FittedXGBoost.save` wrote into `folder`."""
        xgboost = load_xgboost()

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
class FittedXGBoost(Fitted):
    """A fitted shadow attacker."""

    attack: XGBoostAttack
    booster: Any
    label_classes: int
    threshold: float
    validation_f1: float
    notes: list[str] = field(default_factory=list)

    def score(self, outputs: pa.Table) -> np.ndarray:
        """Returns the probability that each row's sample was trained on, float64 `(rows,)`."""
        xgboost = load_xgboost()

        step = max(1, BLOCK_FEATURES // (2 * self.label_classes))
        found = np.empty(len(outputs), dtype=np.float64)
        for start in range(0, len(outputs), step):
            part = outputs.slice(start, step)
            features = self.attack.features(part, self.label_classes)
            matrix = xgboost.DMatrix(
                features,
                feature_types=feature_types(features.shape[1], self.attack.label),
                enable_categorical=self.attack.label == "categorical",
                nthread=self.attack.threads,
            )
            found[start : start + step] = self.booster.predict(matrix)
        return found

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


@dataclass(frozen=True)
class Prepared:
    """Both folds binned by XGBoost, the validation fold's targets float32 `(rows,)`, and notes on
    the features."""

    train: Any
    validation: Any
    targets: np.ndarray
    label_classes: int
    notes: list[str]

    @classmethod
    def of(cls, outputs: pa.Table, attack: XGBoostAttack, threads: int) -> Prepared:
        """Builds the features that `attack` learns from; its other settings do not matter here."""
        xgboost = load_xgboost()

        label_classes = label_count(outputs)
        matrices: dict[str, Any] = {}
        notes: list[str] = []
        for fold in ("train", "validation"):
            table = shadow_rows(outputs, fold)
            features, targets = attack.features(table, label_classes), membership(table)
            if fold == "train":
                notes = constant_feature_notes(features, attack.label_columns(label_classes))
            matrices[fold] = xgboost.QuantileDMatrix(
                features,
                targets,
                nthread=threads,
                ref=matrices.get("train"),
                feature_types=feature_types(features.shape[1], attack.label),
                enable_categorical=attack.label == "categorical",
            )
            del table, features  # binned by now: not to be held twice
        return cls(matrices["train"], matrices["validation"], targets, label_classes, notes)


def fit_all(
    outputs: pa.Table, attacks: Sequence[XGBoostAttack], *, threads: int | None = None, device: str = "cpu"
) -> list[FittedXGBoost]:
    """Returns each of `attacks` fitted, as its own `fit` would: features that several share are
    built and binned once."""
    refuse_split_by_row(outputs)
    shared: dict[tuple[str, tuple[int, ...]], Prepared] = {}
    found = []
    for attack in attacks:
        key = (attack.label, attack.forget_classes)
        if key not in shared:
            # one at a time in memory
            shared = {key: Prepared.of(outputs, attack, threads or attack.threads)}
        found.append(attack.fit_prepared(shared[key], threads or attack.threads, device))
    return found


def tune(table: pa.Table, settings: Sequence[Mapping[str, Any]] | None = None) -> FittedXGBoost:
    """Returns the attacker with the best validation F1 among `settings` (default: `candidates`);
    of equals the first."""
    fitted = fit_all(
        table, [XGBoostAttack(**params) for params in (XGBoostAttack.candidates() if settings is None else settings)]
    )
    if not fitted:
        raise ValueError("settings: no candidate was given")
    return max(fitted, key=lambda attacker: attacker.validation_f1)


def shadow_rows(outputs: pa.Table, fold: str) -> pa.Table:
    """Returns the fold's rows of originals and retrained models in the order of (model, sample).

    **Raises:** `ValueError` where a role has no row in the fold.
    """
    table = rows_where(outputs, fold=fold, role=("original", "retrained"))
    present = set(pc.unique(table["role"]).to_pylist())
    for role in ("original", "retrained"):
        if role not in present:
            raise ValueError(
                f"role: no {role!r} rows in fold {fold!r}; the shadow attack needs models of both roles there"
            )
    keys = [coded_column(table, name)[1] for name in ("role", "model_id")]
    order = np.lexsort((table["sample_id"].to_numpy(), *keys))
    return table if (np.diff(order) == 1).all() else table.take(pa.array(order))


def refuse_split_by_row(outputs: pa.Table) -> None:
    """Raises `ValueError` where an original or retrained model has rows in several folds.

    Rows of one model are alike: trained on some of them, the attacker would be tuned on what it has
    seen.
    """
    models = rows_where(outputs, role=("original", "retrained")).group_by(["role", "model_id", "fold"]).aggregate([])
    folds = models.group_by(["role", "model_id"]).aggregate([("fold", "count")])
    split = folds.filter(pc.greater(folds["fold_count"], 1)).to_pylist()
    if split:
        first = min(split, key=lambda model: (model["role"], model["model_id"]))
        raise ValueError(
            f"fold: {first['role']} model {first['model_id']!r} has rows in {first['fold_count']} folds ({len(split)} such models); "
            "split by model, never by row"
        )


def membership(table: pa.Table) -> np.ndarray:
    """Returns 1 for rows of originals and 0 for others, float32 `(rows,)`."""
    return pc.equal(table["role"], "original").to_numpy().astype(np.float32)


def label_count(outputs: pa.Table) -> int:
    """Returns how many classes the one-hot label needs: those that the logits and the labels tell
    of."""
    top = pc.max(outputs["label"]).as_py()
    return max(outputs["logits"].type.list_size, (top if top is not None else -1) + 1)


def constant_feature_notes(features: np.ndarray, label_columns: int = 0) -> list[str]:
    """Returns a note where the model outputs do not vary: an attack on constant features says
    nothing.

    **Arguments:** `label_columns`: how many of the last columns are the label, which varies by
    itself.
    """
    outputs = features[:, : features.shape[1] - label_columns]
    if len(outputs) == 0 or not (outputs != outputs[:1]).any():
        return [CONSTANT]
    return []
