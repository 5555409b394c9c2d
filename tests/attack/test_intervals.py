"""Intervals over models: fast resampling against plain resampling, coverage by simulation, Retrain differences."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from attack import evaluate, roc
from attack.metrics.bootstrap import resampled_tpr, resampled_weights
from attack.metrics.evaluation import Scores, paired_difference, worst_samples
from attack.metrics.roc import auc_matrix

from .build import slow_auc


def side(generator: np.random.Generator, models: int, shift: float, spread: float = 0.5, samples: int = 40) -> Scores:
    """Scores whose models share an offset, so that rows of one model are correlated."""
    offsets = np.repeat(generator.normal(size=models) * spread, samples)
    scores = generator.normal(shift, 1, models * samples) + offsets
    return Scores(scores, np.repeat([f"m{i:02d}" for i in range(models)], samples), np.tile(np.arange(samples), models))


@pytest.mark.parametrize("digits", [1, 6])
def test_pairs_of_models_agree_with_the_pairwise_statement(digits: int) -> None:
    generator = np.random.default_rng(0)
    a = [np.round(generator.normal(0.4, 1, n), digits) for n in (7, 12)]
    b = [np.round(generator.normal(0.0, 1, n), digits) for n in (9, 5, 4)]
    expected = [[slow_auc(list(x), list(y)) for y in b] for x in a]
    assert auc_matrix(a, b) == pytest.approx(np.asarray(expected), abs=1e-12)


@pytest.mark.parametrize("digits", [1, 6])
@pytest.mark.parametrize("rate", [0.3, 0.05, 0.01, 0.002])
def test_resampled_rates_agree_with_a_roc_of_the_resampled_rows(rate: float, digits: int) -> None:
    generator = np.random.default_rng(3)
    members = [np.round(generator.normal(1.0, 1, 150), digits) for _ in range(5)]
    others = [np.round(generator.normal(0.0, 1, 1 + 300 * (1 + j % 2)), digits) for j in range(4)]
    rows, columns = resampled_weights(5, 40, generator), resampled_weights(4, 40, generator)
    [found] = resampled_tpr(members, others, rows, columns, [rate])
    for draw in range(40):
        positive = np.concatenate([np.tile(m, int(w)) for m, w in zip(members, rows[draw], strict=True)])
        negative = np.concatenate([np.tile(o, int(w)) for o, w in zip(others, columns[draw], strict=True)])
        curve = roc(np.repeat([1, 0], [len(positive), len(negative)]), np.concatenate([positive, negative]))
        assert found[draw] == pytest.approx(curve.tpr[curve.fpr <= rate + 1e-12].max(), abs=1e-12)


@pytest.mark.medium
def test_intervals_cover_an_auc_away_from_chance() -> None:
    """True AUC Φ(d/√(2(1+σ²))) for offsets of deviation σ; 400 draws, 92 to 98.5 % of the 95 % intervals must hold it."""
    generator = np.random.default_rng(0)
    d, spread = 0.8, 0.4
    truth = NormalDist().cdf(d / math.sqrt(2 * (1 + spread**2)))
    held = 0
    for draw in range(400):
        found = evaluate(side(generator, 6, d, spread), side(generator, 6, 0.0, spread), seed=draw, bootstrap=400)
        low, high = found.ci["auc"]
        held += low <= truth <= high
    assert 0.92 <= held / 400 <= 0.985, f"{held / 400:.3f}"


@pytest.mark.medium
def test_paired_intervals_cover_and_are_narrower_than_unpaired_ones() -> None:
    generator = np.random.default_rng(1)
    d, spread = 0.6, 0.4
    truth = NormalDist().cdf(d / math.sqrt(1 + spread**2 + 1 + 1.0)) - 0.5
    held, narrower = 0, 0
    for draw in range(300):
        negatives = side(generator, 6, 0.0, 1.0)
        method = evaluate(side(generator, 6, d, spread), negatives, seed=draw, bootstrap=300)
        reference = evaluate(side(generator, 6, 0.0, spread), negatives, seed=draw, bootstrap=300)
        _, interval = paired_difference(method, reference, seed=draw, bootstrap=300)
        assert interval is not None
        held += interval[0] <= truth <= interval[1]
        widths = [e.ci["auc"][1] - e.ci["auc"][0] for e in (method, reference)]
        narrower += interval[1] - interval[0] < math.hypot(*widths)
    assert 0.92 <= held / 300 <= 0.995, f"{held / 300:.3f}"
    assert narrower > 290


def test_paired_difference_needs_the_same_negatives_and_two_models() -> None:
    generator = np.random.default_rng(0)
    negatives = side(generator, 3, 0.0)
    a = evaluate(side(generator, 3, 0.0), negatives)
    with pytest.raises(ValueError, match="same retrained models"):
        paired_difference(a, evaluate(side(generator, 3, 0.0), side(generator, 4, 0.0)))
    one = evaluate(side(generator, 1, 0.0), negatives)
    assert paired_difference(one, a)[1] is None


def test_thresholded_metrics_have_intervals_that_hold_the_estimate() -> None:
    generator = np.random.default_rng(0)
    found = evaluate(side(generator, 8, 1.0), side(generator, 8, 0.0), threshold=0.5)
    for name in ("balanced_accuracy", "precision", "recall", "f1", "auc", "tpr_at_fpr_0.01"):
        low, high = found.ci[name]
        assert low <= found.metrics[name] <= high
    assert found.metrics["tpr_at_fpr_0.0001"] is None
    assert "tpr_at_fpr_0.0001" not in found.ci


def test_worst_samples_are_named_by_id() -> None:
    generator = np.random.default_rng(0)
    a, b = side(generator, 6, 0.0, 0.1), side(generator, 6, 0.0, 0.1)
    a.scores[a.sample_ids == 17] += 9.0
    worst = worst_samples(a, b, count=3)
    assert worst[0]["sample_id"] == 17
    assert worst[0]["auc"] == 1.0
    distances = [abs(w["auc"] - 0.5) for w in worst]
    assert distances == sorted(distances, reverse=True)
    by_hand = slow_auc(
        list(a.scores[a.sample_ids == worst[1]["sample_id"]]), list(b.scores[b.sample_ids == worst[1]["sample_id"]])
    )
    assert worst[1]["auc"] == pytest.approx(by_hand)
