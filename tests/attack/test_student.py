"""Intervals in closed form, each against a slow statement of its definition, and what they say where nothing varies."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from attack import evaluate, roc
from attack.metrics.bootstrap import beyond_interval, bounded_below, resampled_tpr, resampled_weights
from attack.metrics.t_intervals import Shares, mean_interval, share_interval

from .test_intervals import side


def test_means_are_students() -> None:
    generator = np.random.default_rng(0)
    first = generator.normal(3.0, 2.0, 4)
    assert mean_interval(first) == pytest.approx(list(stats.ttest_1samp(first, 0.0).confidence_interval(0.95)))
    assert mean_interval([1.0, 9.0], least=0.0, most=8.0) == [0.0, 8.0]
    assert mean_interval([7.0, 7.0, 7.0]) == [7.0, 7.0]


def test_a_share_is_clopper_and_pearsons_of_as_many_rows_as_the_models_are_worth() -> None:
    shares, rows = [0.02, 0.10, 0.05, 0.03, 0.06], 400
    mean = float(np.mean(shares))
    worth = mean * (1.0 - mean) / (float(np.var(shares, ddof=1)) / 5)
    worth *= (stats.t.ppf(0.975, 5 * rows - 1) / stats.t.ppf(0.975, 4)) ** 2
    hits = mean * worth
    expected = [
        stats.beta.ppf(0.025, hits, worth - hits + 1.0),
        stats.beta.ppf(0.975, hits + 1.0, worth - hits),
    ]
    found = share_interval(Shares(np.asarray(shares) * rows, np.full(5, float(rows))))
    assert found == pytest.approx(expected, rel=1e-9)
    # Of many models with little between them it is the interval of the mean of their shares.
    many = np.random.default_rng(0).binomial(300, 0.4, 200).astype(float)
    assert share_interval(Shares(many, np.full(200, 300.0))) == pytest.approx(mean_interval(many / 300.0), abs=1e-4)


def test_no_hit_at_all_is_no_certainty() -> None:
    rows = np.full(4, 250.0)
    low, high = share_interval(Shares(np.zeros(4), rows))
    assert low == 0.0
    # Of 1,000 rows that were independent it would be 1 − 0.025^(1/1000) = 0.0037; four models are worth fewer.
    assert 0.0037 < high < 0.02
    assert share_interval(Shares(rows, rows)) == pytest.approx([1.0 - high, 1.0])
    worse, better = share_interval(Shares(np.full(4, 10.0), rows)), mean_interval([0.04] * 4)
    assert worse[0] < better[0] == better[1] < worse[1]


def uneven(generator: np.random.Generator, shift: float, sizes: tuple[int, ...]) -> list[np.ndarray]:
    return [generator.normal(shift + generator.normal() * 0.4, 1.0, size) for size in sizes]


def test_thresholded_intervals_agree_with_an_infinitesimal_jackknife() -> None:
    """Each model's pull on the metric, by weighting it a little more and recomputing all from the weighted rows."""
    from attack.metrics.evaluation import Scores

    generator = np.random.default_rng(5)
    sides = uneven(generator, 0.8, (60, 40, 90, 55)), uneven(generator, 0.0, (70, 30, 45, 80, 60))
    threshold = 0.3

    def rates(weights: list[np.ndarray]) -> tuple[float, float, float, float]:
        hits, missed = (sum(w * f(m) for w, m in zip(weights[0], sides[0], strict=True)) for f in (above, below))
        alarms, passed = (sum(w * f(o) for w, o in zip(weights[1], sides[1], strict=True)) for f in (above, below))
        return hits, missed, alarms, passed

    def above(scores: np.ndarray) -> float:
        return float((scores >= threshold).sum())

    def below(scores: np.ndarray) -> float:
        return float((scores < threshold).sum())

    # Weights are a share of all rows: how many rows a side has is no property of the models.
    totals = [float(sum(len(m) for m in group)) for group in sides]

    def scaled(weights: list[np.ndarray]) -> tuple[float, float, float, float]:
        h, m, a, p = rates(weights)
        return h / (h + m) * totals[0], m / (h + m) * totals[0], a / (a + p) * totals[1], p / (a + p) * totals[1]

    metrics: dict[str, Callable[[float, float, float, float], float]] = {
        "balanced_accuracy": lambda h, m, a, p: (h / (h + m) + p / (a + p)) / 2.0,
        "precision": lambda h, m, a, p: h / (h + a),
        "f1": lambda h, m, a, p: 2.0 * h / (2.0 * h + a + m),
    }
    given = [
        Scores(np.concatenate(g), np.repeat(np.arange(len(g)), [len(m) for m in g]), np.arange(sum(map(len, g))))
        for g in sides
    ]
    found = evaluate(given[0], given[1], threshold=threshold, bootstrap=50)
    for name, metric in metrics.items():
        ones = [np.ones(len(group)) for group in sides]
        value = metric(*scaled(ones))
        assert found.metrics[name] == pytest.approx(value)
        parts = []
        for which, group in enumerate(sides):
            pulls = []
            for model in range(len(group)):
                moved = [weights.copy() for weights in ones]
                moved[which][model] += 1e-6
                pulls.append((metric(*scaled(moved)) - value) / 1e-6)
            parts.append((len(group) / (len(group) - 1) * sum(p * p for p in pulls), len(group) - 1))
        variance = sum(part for part, _ in parts)
        freedom = variance**2 / sum(part**2 / free for part, free in parts)
        reach = stats.t.ppf(0.975, freedom) * math.sqrt(variance) / (value * (1.0 - value))
        expected = [1.0 / (1.0 + math.exp(-(math.log(value / (1.0 - value)) + s * reach))) for s in (-1, 1)]
        assert found.ci[name] == pytest.approx(expected, rel=1e-4), name


@pytest.mark.parametrize(("shift", "threshold"), [(-60.0, 0.0), (60.0, 30.0), (0.0, -90.0)])
def test_metrics_at_their_ends_have_intervals_that_hold_them_and_are_not_empty(shift: float, threshold: float) -> None:
    generator = np.random.default_rng(0)
    found = evaluate(side(generator, 4, shift), side(generator, 4, 0.0), threshold=threshold, bootstrap=50)
    for name in ("balanced_accuracy", "precision", "recall", "f1"):
        if found.metrics[name] is None:
            assert name not in found.ci
            continue
        low, high = found.ci[name]
        assert 0.0 <= low <= found.metrics[name] + 1e-12
        assert found.metrics[name] <= high + 1e-12 <= 1.0 + 2e-12
        assert high - low > 0.001, name


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_resampled_shares_take_the_allowed_part_of_ties(digits: int) -> None:
    """The curve's straight lines between its points, read at the rate itself."""
    generator = np.random.default_rng(3)
    members = [np.round(generator.normal(0.5, 1, 50), digits) for _ in range(4)]
    others = [np.round(generator.normal(0.0, 1, 30 * (1 + j % 2)), digits) for j in range(3)]
    rows, columns = resampled_weights(4, 30, generator), resampled_weights(3, 30, generator)
    [found] = resampled_tpr(members, others, rows, columns, [0.05], ties=True)
    for draw in range(30):
        positive = np.concatenate([np.tile(m, int(w)) for m, w in zip(members, rows[draw], strict=True)])
        negative = np.concatenate([np.tile(o, int(w)) for o, w in zip(others, columns[draw], strict=True)])
        beyond = np.sort(negative)[::-1]
        allowed = 0.05 * len(negative)
        edge = beyond[int(allowed + 1e-9)]  # the first score that is one too many
        part = (allowed - (negative > edge).sum()) / (negative == edge).sum()
        expected = (positive > edge).mean() + part * (positive == edge).mean()
        assert found[draw] == pytest.approx(expected, abs=1e-9)


def test_a_rate_too_rare_to_be_bounded_has_no_lower_end_and_says_so() -> None:
    assert [bounded_below(allowed) for allowed in (1.0, 3.6, 3.7)] == [False, False, True]
    certain = Shares(np.full(3, 8.0), np.full(3, 10.0))
    assert beyond_interval(np.full(9, 0.8), 3, certain, 3.0)[0] == 0.0
    assert 0.0 < beyond_interval(np.full(9, 0.8), 3, certain, 4.0)[0] < 0.8
    generator = np.random.default_rng(0)
    few = evaluate(side(generator, 8, 3.0), side(generator, 8, 0.0), bootstrap=50)  # 320 negatives, 3 of them allowed
    assert few.ci["tpr_at_fpr_0.01"][0] == 0.0
    assert few.metrics["tpr_at_fpr_0.01"] > 0.3
    assert ["0.01 has no lower end but 0" in note for note in few.notes] == [True]
    many = evaluate(side(generator, 8, 3.0, samples=600), side(generator, 8, 0.0, samples=600), bootstrap=50)
    assert many.ci["tpr_at_fpr_0.01"][0] > 0.0
    assert ["0.001 takes the 8 retrained models" in note for note in many.notes] == [True]
    assert not evaluate(side(generator, 8, 0.0, samples=60), side(generator, 8, 0.0, samples=60), bootstrap=50).notes
    scores = np.concatenate([generator.normal(1, 1, 400), generator.normal(0, 1, 400)])
    curve = roc(np.repeat([1, 0], 400), scores)
    assert (scores[:400] >= curve.threshold_at(0.02)).mean() == curve.tpr_at(0.02)
    assert (scores[400:] >= curve.threshold_at(0.02)).mean() <= 0.02
