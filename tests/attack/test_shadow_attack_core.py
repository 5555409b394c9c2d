"""ROC, intervals and the shadow attack against slow statements, closed forms and planted defects."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from attack import XGBoostAttack, auc, evaluate, outputs_table, roc
from attack.attacks.features import shadow_features
from attack.attacks.xgboost import best_f1
from attack.metrics.bootstrap import resampled_tpr
from attack.metrics.evaluation import Evaluation, Scores, paired_difference
from attack.metrics.tiny import tiny_scores
from attack.outputs.confidence import log_softmax, phi


def slow_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """P(member's score > non-member's) + ½ P(equal), pair by pair."""
    total = 0.0
    members, others = scores[labels == 1], scores[labels == 0]
    for a in members:
        for b in others:
            total += 1.0 if a > b else 0.5 if a == b else 0.0
    return total / (len(members) * len(others))


@pytest.mark.parametrize("seed", range(5))
def test_auc_and_roc_agree_with_the_pairwise_statement_ties_included(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, 200)
    scores = np.round(generator.normal(size=200) + 0.5 * labels, 1)  # rounding makes many ties
    expected = slow_auc(labels, scores)
    assert auc(labels, scores) == pytest.approx(expected, abs=1e-12)
    curve = roc(labels, scores)
    assert curve.auc == pytest.approx(expected, abs=1e-12)
    for threshold, fpr, tpr in zip(curve.thresholds, curve.fpr, curve.tpr, strict=True):
        assert tpr == pytest.approx((scores[labels == 1] >= threshold).mean())
        assert fpr == pytest.approx((scores[labels == 0] >= threshold).mean())


def test_auc_of_gaussians_is_the_closed_form() -> None:
    generator = np.random.default_rng(0)
    for distance in (0.0, 0.5, 1.5):
        scores = np.concatenate([generator.normal(distance, 1, 40_000), generator.normal(0, 1, 40_000)])
        labels = np.repeat([1, 0], 40_000)
        assert auc(labels, scores) == pytest.approx(NormalDist().cdf(distance / math.sqrt(2)), abs=0.005)


def test_rates_that_cannot_be_measured_are_none() -> None:
    generator = np.random.default_rng(0)
    curve = roc(np.repeat([1, 0], 500), generator.normal(size=1000))
    assert curve.tpr_at(0.002) is not None
    assert curve.tpr_at(0.0019) is None
    values = np.arange(1000.0)
    exact = roc(np.repeat([0, 1], 500), values)
    assert exact.tpr_at(0.01) == 1.0
    assert roc(np.repeat([1, 0], 500), values).tpr_at(0.01) == 0.0


@pytest.mark.parametrize("infinite", [np.inf, -np.inf])
@pytest.mark.parametrize("labels", [[1, 0, 1, 0], [0, 1, 1, 0]])
def test_infinite_scores_that_are_equal_are_tied(infinite: float, labels: list[int]) -> None:
    truth, scores = np.array(labels), np.array([infinite, infinite, 0.0, 0.0])
    assert roc(truth, scores).auc == auc(truth, scores) == 0.5
    assert best_f1(truth, np.full(4, infinite))[1] == pytest.approx(2 / 3)
    # Half of all negatives share the highest score, so no threshold allows 1 % of them.
    halves = [np.repeat([np.inf, 0.0], 50) for _ in range(6)]
    (rates,) = resampled_tpr(halves[:3], halves[3:], np.ones((2, 3)), np.ones((2, 3)), [0.01])
    assert rates.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("outputs", [19, 30, 60])
def test_one_score_in_twenty_is_tiny_where_nothing_is_to_be_seen(outputs: int) -> None:
    generator = np.random.default_rng(outputs)

    def drawn(rows: int) -> Scores:
        return Scores(generator.uniform(size=rows), np.zeros(rows, dtype=np.int64), np.arange(rows))

    found = np.asarray([tiny_scores(drawn(100), drawn(outputs), 0)[0] for _ in range(2000)], dtype=np.float64)
    assert abs(found.mean() - 0.05) < 4 * found.std() / np.sqrt(len(found))
    assert tiny_scores(drawn(100), drawn(18), 0) == (None, None, [])


@pytest.mark.parametrize("bad", [np.asarray([1.0, np.nan]), np.asarray([1.0])])
def test_unusable_scores_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"NaN|shapes"):
        roc(np.asarray([1, 0]), bad)
    with pytest.raises(ValueError, match="both members"):
        roc(np.asarray([1, 1]), np.asarray([0.1, 0.2]))


def side(
    generator: np.random.Generator, models: int, samples: int = 50, shift: float = 0.0, spread: float = 0.5
) -> Scores:
    """Scores whose models share an offset, so that rows of one model are correlated."""
    scores = np.concatenate([generator.normal(shift, 1, samples) + generator.normal() * spread for _ in range(models)])
    ids = np.repeat([f"model-{i}" for i in range(models)], samples)
    return Scores(scores, ids, np.tile(np.arange(samples), models))


@pytest.mark.medium
def test_intervals_cover_what_they_promise() -> None:
    """Equal distributions on both sides: 95 % of the intervals must hold 0.5 (400 draws: 92 to 98 % pass)."""
    generator = np.random.default_rng(0)
    for models in (5, 12):
        held = 0
        for draw in range(400):
            low, high = evaluate(side(generator, models), side(generator, models), seed=draw, bootstrap=400).ci["auc"]
            held += low <= 0.5 <= high
        assert 0.92 <= held / 400 <= 0.985, f"{models} models: {held / 400:.3f}"


def test_resampling_rows_would_be_far_too_narrow() -> None:
    generator = np.random.default_rng(1)
    a, b = side(generator, 10, spread=1.0), side(generator, 10, spread=1.0)
    by_model = evaluate(a, b).ci["auc"]
    by_row = evaluate(
        Scores(a.scores, np.arange(len(a.scores)).astype(str), a.sample_ids),
        Scores(b.scores, np.arange(len(b.scores)).astype(str), b.sample_ids),
        bootstrap=200,
    ).ci["auc"]
    assert by_model[1] - by_model[0] > 2 * (by_row[1] - by_row[0])


def test_evaluation_metrics_against_plain_counts() -> None:
    generator = np.random.default_rng(2)
    a, b = side(generator, 6, shift=1.0), side(generator, 6)
    found = evaluate(a, b, threshold=0.5)
    tp, fp = (a.scores >= 0.5).sum(), (b.scores >= 0.5).sum()
    fn, tn = len(a.scores) - tp, len(b.scores) - fp
    assert found.metrics["recall"] == tp / (tp + fn)
    assert found.metrics["precision"] == tp / (tp + fp)
    assert found.metrics["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert found.metrics["balanced_accuracy"] == pytest.approx((tp / (tp + fn) + tn / (tn + fp)) / 2)
    assert found.metrics["auc"] == pytest.approx(slow_auc(np.repeat([1, 0], 300), np.concatenate([a.scores, b.scores])))
    assert evaluate(a, b).metrics["f1"] is None
    assert evaluate(a, b, seed=3).ci == evaluate(a, b, seed=3).ci
    one = evaluate(side(generator, 1), side(generator, 1))
    assert one.ci == {}


def test_paired_difference_shares_the_negatives() -> None:
    generator = np.random.default_rng(0)
    negatives = side(generator, 8)
    a: Evaluation = evaluate(side(generator, 8, shift=1.0), negatives)
    b = evaluate(side(generator, 8), negatives)
    difference, (low, high) = paired_difference(a, b)
    assert difference == pytest.approx(a.metrics["auc"] - b.metrics["auc"])
    assert low < difference < high
    assert low > 0
    same, interval = paired_difference(a, a)
    assert same == 0
    assert interval[0] <= 0 <= interval[1]


def population(signal: float, *, models: int = 10, samples: int = 80, seed: int = 0) -> pa.Table:
    generator = np.random.default_rng(seed)
    labels = np.arange(samples) % 5
    tables = []
    for role, extra in (("original", signal), ("retrained", 0.0)):
        for model in range(models):
            fold = "train" if model < 6 else "validation" if model < 8 else "test"
            logits = generator.normal(size=(samples, 5))
            logits[np.arange(samples), labels] += 1.0 + extra
            tables.append(outputs_table(f"{role}-{model}", role, "", "{}", fold, np.arange(samples), labels, logits))
    return pa.concat_tables(tables)


def test_a_membership_signal_is_found_and_no_signal_is_not() -> None:
    table = population(1.5)
    test = table.filter(pc.equal(table["fold"], "test"))
    truth = np.asarray(test["role"].to_pylist()) == "original"
    assert auc(truth, XGBoostAttack(max_depth=4).fit(table).score(test)) > 0.75
    nothing = population(0.0)
    test = nothing.filter(pc.equal(nothing["fold"], "test"))
    assert abs(auc(truth, XGBoostAttack(max_depth=4).fit(nothing).score(test)) - 0.5) < 0.1


def test_the_order_of_rows_does_not_matter() -> None:
    table = population(1.0)
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(len(table))))
    attack = XGBoostAttack(max_depth=4, rounds=30)
    assert np.array_equal(attack.fit(table).score(table), attack.fit(shuffled).score(table))


def test_the_test_fold_is_not_looked_at() -> None:
    table = population(1.0)
    fitted = XGBoostAttack(max_depth=4, rounds=30).fit(table)
    without = table.filter(pc.not_equal(table["fold"], "test"))
    assert np.array_equal(fitted.score(table), XGBoostAttack(max_depth=4, rounds=30).fit(without).score(table))


def test_swapped_roles_turn_the_score_round() -> None:
    table = population(1.5)
    swapped_roles = pc.if_else(pc.equal(table["role"], "original"), "retrained", "original")
    swapped = table.set_column(table.schema.get_field_index("role"), "role", swapped_roles)
    test = table.filter(pc.equal(table["fold"], "test"))
    truth = np.asarray(test["role"].to_pylist()) == "original"
    assert auc(truth, XGBoostAttack(max_depth=4).fit(swapped).score(test)) < 0.25


def test_a_missing_role_or_fold_is_named() -> None:
    table = population(1.0)
    with pytest.raises(ValueError, match="no 'original' rows in fold 'validation'"):
        XGBoostAttack().fit(
            table.filter(pc.invert(pc.and_(pc.equal(table["role"], "original"), pc.equal(table["fold"], "validation"))))
        )


def test_constant_features_are_reported() -> None:
    table = population(0.0)
    flat = pa.concat_tables(
        outputs_table(m, r, "", "{}", f, np.arange(4), np.zeros(4, int), np.zeros((4, 5)))
        for m, r, f in {
            (row["model_id"], row["role"], row["fold"])
            for row in table.select(["model_id", "role", "fold"]).to_pylist()
        }
    )
    assert "constant" in XGBoostAttack().fit(flat).notes[0]
    assert XGBoostAttack(rounds=5).fit(table).notes == []


def test_saved_and_loaded_is_the_same_attacker(tmp_path: Path) -> None:
    table = population(1.0)
    fitted = XGBoostAttack(max_depth=3, rounds=20).fit(table)
    fitted.save(tmp_path)
    loaded = XGBoostAttack.load(tmp_path)
    assert np.array_equal(fitted.score(table), loaded.score(table))
    assert (loaded.threshold, loaded.validation_f1, loaded.attack) == (
        fitted.threshold,
        fitted.validation_f1,
        fitted.attack,
    )


def test_best_f1_against_every_threshold() -> None:
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 2, 60), np.round(generator.uniform(size=60), 1)
    threshold, f1 = best_f1(labels.astype(float), scores)

    def value(t: float) -> float:
        predicted = scores >= t
        return 2 * (predicted & (labels == 1)).sum() / (predicted.sum() + labels.sum())

    assert f1 == pytest.approx(max(value(t) for t in np.unique(scores)))
    assert value(threshold) == pytest.approx(f1)


def test_features_are_softmax_beside_one_hot_also_where_the_label_was_dropped() -> None:
    logits = np.asarray([[1.0, 2.0, 3.0], [1000.0, 0.0, -1000.0]])
    table = outputs_table("m", "original", "", "{}", "train", np.arange(2), np.asarray([4, 0]), logits)
    features = shadow_features(table, 5)
    exact = np.exp([1.0, 2.0, 3.0]) / np.exp([1.0, 2.0, 3.0]).sum()
    assert features[0] == pytest.approx([*exact, 0, 0, 0, 0, 1], abs=1e-6)
    assert features[1] == pytest.approx([1, 0, 0, 1, 0, 0, 0, 0], abs=1e-6)
    with pytest.raises(ValueError, match="label: 4 lies outside"):
        shadow_features(table, 4)
    broken = outputs_table(
        "m", "original", "", "{}", "train", np.arange(1), np.zeros(1, int), np.asarray([[np.nan, 1.0]])
    )
    with pytest.raises(ValueError, match="not finite"):
        shadow_features(broken, 2)


def test_phi_is_the_logit_scaled_confidence_without_overflow() -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(50, 6)), generator.integers(0, 6, 50)
    p = np.exp(log_softmax(logits))
    own = p[np.arange(50), labels]
    assert phi(logits, labels) == pytest.approx(np.log(own) - np.log(1 - own))
    assert phi(np.asarray([[800.0, 0.0]]), np.asarray([0])) == pytest.approx([800.0])


@pytest.mark.parametrize(
    ("options", "words"), [({"max_depth": 0}, "max_depth: 0"), ({"eta": 2.0}, "eta: 2.0"), ({"rounds": 0}, "rounds: 0")]
)
def test_settings_out_of_range_are_one_line(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        XGBoostAttack(**options)


def test_outputs_tables_refuse_what_does_not_fit() -> None:
    arguments = ("", "{}", "train", np.arange(2), np.zeros(2, int), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="role: 'orginal'"):
        outputs_table("m", "orginal", *arguments)
    with pytest.raises(ValueError, match="fold: 'tests'"):
        outputs_table("m", "original", "", "{}", "tests", *arguments[3:])
    with pytest.raises(ValueError, match="does not fit"):
        outputs_table("m", "original", "", "{}", "train", np.arange(3), np.zeros(2, int), np.zeros((2, 3)))
