"""What every attack refuses when called from Python, and the logit-scaled confidence against exact decimals."""

from __future__ import annotations

import warnings
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from attack import (
    ATTACKS,
    RMIA,
    EntropyThreshold,
    ForgettingQuality,
    Gap,
    KLoM,
    LiRA,
    LossThreshold,
    OneShadow,
    ULiRA,
    XGBoostAttack,
)
from attack.attacks.features import shadow_features
from attack.outputs.confidence import entropy, log_confidence, phi
from attack.outputs.table import logits_matrix, rows_where

from .build import pool, shuffled

EVERY = [
    XGBoostAttack(rounds=3),
    LiRA(),
    LiRA(mode="offline"),
    ULiRA(),
    RMIA(),
    RMIA(mode="offline"),
    OneShadow(),
    Gap(),
    LossThreshold(),
    EntropyThreshold(),
]


def with_row(table: pa.Table, row: int, value: float, column: int = 0) -> pa.Table:
    logits = logits_matrix(table).copy()
    logits[row, column] = value
    return table.set_column(
        7, table.schema.field("logits"), pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), 4)
    )


def row_of(table: pa.Table, role: str, fold: str) -> int:
    return int(np.flatnonzero(pc.and_(pc.equal(table["role"], role), pc.equal(table["fold"], fold)).to_numpy())[2])


def test_every_attack_is_listed_here() -> None:
    assert {type(attack).name for attack in EVERY} == set(ATTACKS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("attack", EVERY, ids=lambda a: f"{a.name}-{getattr(a, 'mode', '')}")
def test_logits_that_are_not_finite_are_refused_in_fit_and_in_score(attack: Any, value: float) -> None:
    """A NaN must not pass as a sample that the model lacks (LiRA), nor as a score at the top of the ranking (RMIA)."""
    table = pool(models=8, samples=6, unlearned={"pgu": 0.5})
    inside = with_row(table, row_of(table, "retrained", "validation"), value)
    with pytest.raises(
        ValueError, match=r"logits: 1 rows are not finite, the first for sample_id 11 of model 'retrained-004'"
    ):
        attack.fit(inside)
    test = rows_where(with_row(table, row_of(table, "unlearned", "test"), value), fold="test")
    with pytest.raises(ValueError, match=r"1 rows are not finite, the first for sample_id 11 of model 'pgu-006'"):
        attack.fit(table).score(test)


@pytest.mark.parametrize("measure", [KLoM(), ForgettingQuality()], ids=lambda m: m.name)
def test_divergences_refuse_them_too(measure: Any) -> None:
    table = pool(models=8, samples=6, unlearned={"pgu": 0.5})
    broken = with_row(table, row_of(table, "unlearned", "train"), np.nan)
    with pytest.raises(ValueError, match="1 rows are not finite"):
        measure.measure(rows_where(broken, method="pgu"), rows_where(broken, role="retrained"))


def test_forgotten_classes_may_be_masked_by_infinity() -> None:
    """They are dropped before the softmax, so whatever a model says of them is not looked at."""
    table = pool(models=2, samples=4)
    masked = with_row(table, 3, -np.inf, column=1)
    assert np.array_equal(shadow_features(masked, 4, [1]), shadow_features(table, 4, [1]))
    with pytest.raises(ValueError, match="1 rows are not finite"):
        shadow_features(masked, 4, [2])


@pytest.mark.parametrize("attack", [attack for attack in EVERY if attack.name != "xgboost"], ids=lambda a: a.name)
def test_scores_go_with_their_rows_in_any_order(attack: Any) -> None:
    table = pool(models=8, samples=6, unlearned={"pgu": 0.5})
    fitted = attack.fit(table)
    order = np.random.default_rng(0).permutation(len(table))
    assert np.array_equal(fitted.score(shuffled(table)), fitted.score(table)[order])
    assert np.array_equal(fitted.score(table.slice(5, 20)), fitted.score(table)[5:25])
    assert fitted.score(table).dtype == np.float64


def split_by_row(table: pa.Table) -> pa.Table:
    """The planted defect: rows of train and validation models dealt to the two folds whichever model they are of."""
    folds = np.asarray(table["fold"].to_pylist(), dtype=object)
    fitting = np.flatnonzero(folds != "test")
    folds[fitting] = np.where(np.random.default_rng(0).random(len(fitting)) < 0.7, "train", "validation")
    return table.set_column(4, "fold", pa.array(folds.tolist(), pa.string()))


def marked(models: int = 12, samples: int = 150) -> pa.Table:
    """Nothing tells members from others, but every model has an output of its own that marks all of its rows."""
    table = pool(models=models, samples=samples, shift=0.0, difficulty=0.0, references=False)
    logits = np.zeros_like(logits_matrix(table))
    marks = np.random.default_rng(7).permutation(np.linspace(-3.0, 3.0, 2 * models))
    logits[:, 0] = np.repeat(marks, samples)
    return table.set_column(
        7, table.schema.field("logits"), pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), 4)
    )


def test_a_split_by_row_is_refused_because_it_would_tune_on_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    table = marked()
    attack = XGBoostAttack(max_depth=6, rounds=60)
    with pytest.raises(ValueError, match=r"fold: original model 'original-000' has rows in 2 folds \(18 such models\)"):
        attack.fit(split_by_row(table))
    honest = attack.fit(table)
    monkeypatch.setattr("attack.attacks.xgboost.refuse_split_by_row", lambda outputs: None)
    leaky = attack.fit(split_by_row(table))
    assert honest.validation_f1 < 0.8  # always "member" gives 2/3
    assert leaky.validation_f1 > 0.9


def test_a_model_of_the_test_fold_must_not_be_in_the_fit() -> None:
    table = pool(models=8, samples=6)
    folds = table["fold"].to_pylist()
    folds[row_of(table, "retrained", "train")] = "test"
    with pytest.raises(
        ValueError, match=r"fold: retrained model 'retrained-000' has rows in 2 folds \(1 such models\)"
    ):
        XGBoostAttack(rounds=3).fit(table.set_column(4, "fold", pa.array(folds, pa.string())))


def exact(row: np.ndarray, label: int) -> tuple[Decimal, Decimal, Decimal]:
    """φ, log p_y and the entropy from their definitions, in decimals of sixty digits and any exponent."""
    with localcontext() as context:
        context.prec = 60
        context.Emin, context.Emax = -(10**9), 10**9
        weights = [Decimal(float(z)).exp() for z in row]
        total = sum(weights)
        own = weights[label] / total
        others = sum(w for c, w in enumerate(weights) if c != label) / total
        return own.ln() - others.ln(), own.ln(), -sum((w / total) * (w / total).ln() for w in weights)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 700.0, 1e4])
def test_confidences_agree_with_exact_decimals_also_at_extreme_logits(scale: float) -> None:
    generator = np.random.default_rng(1)
    logits = (generator.normal(size=(20, 7)) * scale).astype(np.float32)
    labels = generator.integers(0, 7, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = phi(logits, labels), log_confidence(phi(logits, labels)), entropy(logits)
    for index, (row, label) in enumerate(zip(logits, labels, strict=True)):
        for values, expected, tolerance in zip(found, exact(row, label), (1e-12, 1e-9, 1e-9), strict=True):
            assert values[index] == pytest.approx(float(expected), rel=tolerance, abs=1e-12)


def test_confidences_do_not_depend_on_the_size_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    logits, labels = generator.normal(size=(50, 6)).astype(np.float32), generator.integers(0, 6, 50)
    whole = phi(logits, labels), entropy(logits)
    monkeypatch.setattr("attack.outputs.table.BLOCK_VALUES", 7 * 6)
    assert np.array_equal(phi(logits, labels), whole[0])
    assert np.array_equal(entropy(logits), whole[1])
