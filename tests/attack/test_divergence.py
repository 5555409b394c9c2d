"""KLoM, forgetting quality ε and the Kolmogorov–Smirnov distance against slow statements and known answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from attack import DIVERGENCES, ForgettingQuality, KLoM
from attack.metrics import ks_distance
from attack.outputs import rows_where

from .build import pool, slow_phi


def slow_klom(unlearned: list[float], retrained: list[float], bins: int, clip: float, floor: float) -> float:
    """KL(unlearned ‖ retrained) between histograms with common bins, by the definition."""
    a, b = ([max(-clip, min(clip, v)) for v in side] for side in (unlearned, retrained))
    low, high = min(a + b), max(a + b)
    total = 0.0
    for k in range(bins):
        left, right = low + (high - low) * k / bins, low + (high - low) * (k + 1) / bins

        def share(side: list[float], left: float = left, right: float = right, last: bool = k == bins - 1) -> float:
            return sum(left <= v < right or (last and v == high) for v in side) / len(side)

        if share(a):
            total += share(a) * math.log(share(a) / max(share(b), floor))
    return total


def test_klom_agrees_with_its_definition() -> None:
    table = pool(models=30, samples=6, unlearned={"pgu": 1.0})
    unlearned, retrained = rows_where(table, method="pgu"), rows_where(table, role="retrained")
    found = KLoM(bins=7, clip=2.5).measure(unlearned, retrained)
    for sample, value in zip(found.samples, found.values, strict=True):
        sides = [
            [slow_phi(r["logits"], r["label"]) for r in side.to_pylist() if r["sample_id"] == sample]
            for side in (unlearned, retrained)
        ]
        assert value == pytest.approx(slow_klom(*sides, bins=7, clip=2.5, floor=1e-5), abs=1e-6)
    assert found.summary["p95"] == pytest.approx(np.quantile(found.values, 0.95))
    assert found.worst(2)[0][1] == found.values.max()


def test_klom_is_zero_for_equal_models_and_counts_the_largest_margin() -> None:
    same = np.random.default_rng(0).normal(size=(50, 4))
    assert KLoM().of_margins(same, same) == pytest.approx(0.0, abs=1e-12)
    constant = np.ones((5, 3))
    assert KLoM().of_margins(constant, constant) == pytest.approx(0.0)
    # All unlearned models at the very top of the range: what a histogram that drops its last edge calls zero.
    apart = KLoM().of_margins(np.full((10, 1), 3.0), np.linspace(0.0, 1.0, 10)[:, None])
    assert apart == pytest.approx(math.log(1.0 / 1e-5))


def test_klom_of_gaussians_is_near_the_closed_form() -> None:
    generator = np.random.default_rng(0)
    values = KLoM().of_margins(generator.normal(0.5, 1, (40_000, 3)), generator.normal(0, 1, (40_000, 3)))
    assert values == pytest.approx(0.5**2 / 2, abs=0.02)


def slow_epsilon(unlearned: list[float], retrained: list[float], delta: float) -> float:
    """ε by every threshold and both directions, on φ and on the Gaussian log-likelihood ratio."""

    def best(mine: list[float], theirs: list[float]) -> float:
        found = 0.0
        points = sorted({*mine, *theirs})
        for cut in [(a + b) / 2 for a, b in itertools.pairwise(points)]:
            for sign in (1, -1):
                fpr = sum(sign * v > sign * cut for v in theirs) / len(theirs)
                fnr = sum(sign * v < sign * cut for v in mine) / len(mine)
                if fpr == 0 and fnr == 0:
                    return math.inf
                if fpr == 0 or fnr == 0:
                    continue
                for x, y in ((fpr, fnr), (fnr, fpr)):
                    if 1 - delta - x > 0:
                        found = max(found, math.log(1 - delta - x) - math.log(y))
        return found

    def ratio(v: float) -> float:
        sides = [(np.mean(s), np.std(s)) for s in (unlearned, retrained)]
        return float(stats.norm.logpdf(v, *sides[0]) - stats.norm.logpdf(v, *sides[1]))

    return max(best(unlearned, retrained), best([ratio(v) for v in unlearned], [ratio(v) for v in retrained]))


@pytest.mark.parametrize("delta", [0.0, 0.05])
def test_epsilon_agrees_with_its_definition(delta: float) -> None:
    generator = np.random.default_rng(0)
    for shift in (0.0, 1.0, 3.0, 12.0):
        unlearned, retrained = generator.normal(shift, 1.5, (9, 12)), generator.normal(0, 1, (11, 12))
        found = ForgettingQuality(delta=delta).of_margins(unlearned, retrained)
        expected = [slow_epsilon(list(u), list(r), delta) for u, r in zip(unlearned.T, retrained.T, strict=True)]
        assert found == pytest.approx(expected, abs=1e-9)


def test_forgetting_quality_scores_by_bins() -> None:
    quality = ForgettingQuality()
    epsilon = np.asarray([0.0, 0.49, 0.5, 1.2, 100.0, np.inf])
    assert quality.scores(epsilon) == pytest.approx([1.0, 1.0, 0.5, 0.25, 2 / 2**13, 2 / 2**13])
    assert quality.final(np.zeros(3), 0.9, 0.8) == pytest.approx(0.72)
    table = pool(models=40, samples=20, unlearned={"good": 0.0, "bad": 8.0})
    retrained = rows_where(table, role="retrained")
    good, bad = (quality.measure(rows_where(table, method=m), retrained) for m in ("good", "bad"))
    # The best of all thresholds finds something in chance itself: even a perfect method scores far below 1.
    assert good.summary["score"] > 0.1 > bad.summary["score"]  # type: ignore[operator]
    assert bad.summary["epsilon_infinite"] > 0.9  # type: ignore[operator]


def test_ks_distance_is_the_statistic() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=90), np.round(generator.normal(0.5, 2, 60), 1)
    assert ks_distance(a, b) == pytest.approx(stats.ks_2samp(a, b).statistic)
    assert ks_distance(a, a) == 0.0


@pytest.mark.parametrize("name", ["klom", "forgetting_quality"])
def test_groups_that_cannot_be_compared_are_refused(name: str) -> None:
    measure = DIVERGENCES[name]()
    table = pool(models=4, samples=5, unlearned={"pgu": 0.0})
    unlearned, retrained = rows_where(table, method="pgu"), rows_where(table, role="retrained")
    with pytest.raises(ValueError, match="1 unlearned models"):
        measure.measure(rows_where(unlearned, model_id="pgu-000"), retrained)
    with pytest.raises(ValueError, match="not measured on the same samples"):
        measure.measure(unlearned, pool(models=4, samples=6))
    with pytest.raises(KeyError):
        DIVERGENCES["unknown"]


@pytest.mark.parametrize(
    ("make", "words"), [(lambda: KLoM(bins=1), "bins: 1"), (lambda: ForgettingQuality(delta=1.0), "delta: 1.0")]
)
def test_settings_out_of_range_are_one_line(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        make()
