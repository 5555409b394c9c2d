"""Options of the shadow attack: dropped classes, the categorical label, tuning, threads."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from attack import XGBoostAttack, auc, outputs_table, tune
from attack.attacks.features import shadow_features
from attack.outputs.table import logits_matrix, rows_where

from .build import area, pool

QUICK = {"max_depth": 3, "eta": 0.2, "rounds": 20}


def removal(kept_only: bool, models: int = 10, samples: int = 60) -> pa.Table:
    """Class removal: samples of the forgotten classes 0 and 1 of 5; originals are unsure among the kept ones in another way."""
    tables = []
    kept = [2, 3, 4]
    labels = np.arange(samples) % 2
    for role, extra in (("original", 1.0), ("retrained", 0.0)):
        for model in range(models):
            generator = np.random.default_rng([model, role == "original"])
            fold = "train" if model < 6 else "validation" if model < 8 else "test"
            logits = generator.normal(size=(samples, 5))
            logits[:, 2] += extra
            logits[:, 0] += 50.0 * generator.normal(size=samples)  # a forgotten class's logit, which must not matter
            stored = logits[:, kept] if kept_only else logits
            tables.append(
                outputs_table(
                    f"{role}-{model}",
                    role,
                    "",
                    "{}",
                    fold,
                    np.arange(samples),
                    labels,
                    stored,
                    classes=kept if kept_only else None,
                )
            )
    return pa.concat_tables(tables)


def test_forgotten_classes_are_dropped_before_the_softmax() -> None:
    full, kept = removal(kept_only=False), removal(kept_only=True)
    features = shadow_features(full, 5, forget_classes=(0, 1))
    assert features.shape[1] == 3 + 5
    assert np.array_equal(features, shadow_features(kept, 5))
    assert np.array_equal(
        features, shadow_features(kept, 5, forget_classes=(0, 1))
    )  # dropped already: nothing more to drop
    assert features[:, :3].sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    first = np.exp(logits_matrix(full)[0, 2:].astype(np.float64))
    assert features[0, :3] == pytest.approx(first / first.sum(), abs=1e-6)
    with pytest.raises(ValueError, match="leaves no class"):
        shadow_features(full, 5, forget_classes=range(5))


def test_an_attack_on_class_removal_sees_kept_classes_only() -> None:
    full, kept = removal(kept_only=False), removal(kept_only=True)
    attack = XGBoostAttack(**QUICK, forget_classes=(0, 1))
    scores = attack.fit(full).score(full)
    assert area(full, scores, "original") > 0.6
    # The stored table has two labels and three columns, so fewer one-hot columns, all of them constant: the same trees.
    assert np.allclose(XGBoostAttack(**QUICK).fit(kept).score(kept), scores, atol=1e-6)


def test_a_categorical_label_finds_what_one_hot_finds(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Membership shows in opposite directions in odd and even classes: the label is needed to see it."""
    generator = np.random.default_rng(0)
    tables = []
    labels = np.arange(200) % 8
    for role, extra in (("original", 1.5), ("retrained", 0.0)):
        for model in range(10):
            fold = "train" if model < 6 else "validation" if model < 8 else "test"
            logits = generator.normal(size=(200, 8))
            logits[np.arange(200), labels] += np.where(labels % 2, 1.0, -1.0) * extra
            tables.append(outputs_table(f"{role}-{model}", role, "", "{}", fold, np.arange(200), labels, logits))
    table = pa.concat_tables(tables)
    test = rows_where(table, fold="test")
    truth = np.asarray(test["role"].to_pylist()) == "original"
    one_hot = XGBoostAttack(max_depth=6, eta=0.2, rounds=60).fit(table)
    categorical = XGBoostAttack(max_depth=6, eta=0.2, rounds=60, label="categorical").fit(table)
    areas = [auc(truth, fitted.score(test)) for fitted in (one_hot, categorical)]
    assert min(areas) > 0.7
    assert abs(areas[0] - areas[1]) < 0.03
    categorical.save(tmp_path)
    assert np.array_equal(XGBoostAttack.load(tmp_path).score(test), categorical.score(test))


def test_tuning_takes_the_best_validation_f1_and_candidates_are_pure() -> None:
    table = pool(models=10, samples=60, shift=1.0, difficulty=0.5)
    settings = [{**candidate, "rounds": 15} for candidate in XGBoostAttack.candidates()]
    assert 6 <= len(settings) <= 8
    assert {"max_depth": 10, "eta": 0.2, "min_child_weight": 0.1} in XGBoostAttack.candidates()
    best = tune(table, settings)
    alone = [XGBoostAttack(**params).fit(table) for params in settings]
    assert best.validation_f1 == max(fitted.validation_f1 for fitted in alone)
    again = XGBoostAttack(**settings[0]).fit(table)
    assert np.array_equal(again.score(table), alone[0].score(table))
    with pytest.raises(ValueError, match="no candidate"):
        tune(table, [])


def test_threads_and_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pool(models=10, samples=60)
    one, two = (XGBoostAttack(**QUICK, threads=threads).fit(table) for threads in (1, 2))
    scores = one.score(table)
    assert np.array_equal(scores, two.score(table))
    monkeypatch.setattr("attack.attacks.xgboost.BLOCK_FEATURES", 100)
    assert np.array_equal(one.score(table), scores)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"label": "embedding"}, "label: 'embedding'"), ({"threads": 0}, "threads: 0"), ({"seed": -1}, "seed: -1")],
)
def test_settings_out_of_range_are_one_line(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        XGBoostAttack(**options)
