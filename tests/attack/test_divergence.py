"""KLoM, forgetting quality ε and the Kolmogorov–Smirnov distance against slow statements and known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from attack import DIVERGENCES, ForgettingQuality, KLoM
from attack.distances.chance import gap
from attack.metrics.roc import ks_distance
from attack.outputs.table import rows_where

from . import checks
from .build import pool


def test_klom_agrees_with_its_definition() -> None:
    checks.klom_is_its_definition()


def test_klom_is_zero_for_equal_models_and_counts_the_largest_margin() -> None:
    checks.klom_counts_the_largest_margin()


def test_klom_of_gaussians_is_near_the_closed_form() -> None:
    generator = np.random.default_rng(0)
    values = KLoM().of_margins(generator.normal(0.5, 1, (40_000, 3)), generator.normal(0, 1, (40_000, 3)))
    assert values == pytest.approx(0.5**2 / 2, abs=0.02)


@pytest.mark.medium
@pytest.mark.parametrize("delta", [0.0, 0.05])
def test_epsilon_agrees_with_its_definition(delta: float) -> None:
    checks.epsilon_is_its_definition(delta)


def test_forgetting_quality_scores_by_bins() -> None:
    quality = ForgettingQuality()
    epsilon = np.asarray([0.0, 0.49, 0.5, 1.2, 100.0, np.inf])
    assert quality.scores(epsilon) == pytest.approx([1.0, 1.0, 0.5, 0.25, 2 / 2**13, 2 / 2**13])
    table = pool(models=40, samples=20, unlearned={"good": 0.0, "bad": 8.0})
    retrained = rows_where(table, role="retrained")
    good, bad = (quality.measure(rows_where(table, method=m), retrained) for m in ("good", "bad"))
    assert good.summary["score"] == pytest.approx(quality.scores(good.values).mean())
    # The best of all thresholds finds something in chance itself: even a perfect method scores far below 1.
    assert 0.5 > good.summary["score"] > 0.05 > bad.summary["score"]  # type: ignore[operator]
    assert bad.summary["epsilon_infinite"] > 0.9  # type: ignore[operator]


@pytest.mark.parametrize("divergence", [KLoM(), ForgettingQuality()], ids=lambda d: d.name)
def test_the_gap_left_is_nothing_for_equal_groups_and_all_before_unlearning(
    divergence: KLoM | ForgettingQuality,
) -> None:
    generator = np.random.default_rng(1)

    def models(shift: float) -> np.ndarray:
        return generator.normal(shift, 1.0, (16, 120)) + generator.normal(0.0, 0.1, (16, 1))

    retrained = models(0.0)
    before, same, half, again = (gap(divergence, models(shift), retrained) for shift in (2.0, 0.0, 1.0, 2.0))
    assert before
    assert same
    assert half
    assert again
    assert before.sees
    assert not same.sees
    assert same.interval[0] <= same.chance <= same.interval[1]
    found = [each.left(before) for each in (same, half, again)]
    assert found[0][1] <= 0.0 <= found[0][2]
    assert found[2][1] > 0.5, "models that forgot nothing lie far from chance"
    assert found[0][0] < found[1][0] < found[2][0]
    assert found[1][1] > 0.0, "what is half left is told from nothing"


@pytest.mark.medium
def test_gaps_miss_their_chance_value_about_as_often_as_they_should() -> None:
    """Equal groups whose models share shifts, as models do: few intervals may leave out the value by chance."""
    generator = np.random.default_rng(2)
    quality, missed = ForgettingQuality(), 0
    for _ in range(40):
        groups = [generator.normal(0, 1, (8, 30)) + generator.normal(0, 0.3, (8, 1)) for _ in range(2)]
        missed += bool((found := gap(quality, *groups)) and found.sees)
    assert missed <= 7


def test_a_divergence_without_a_headline_of_models_has_no_gap() -> None:
    class Bare(KLoM):
        def headline_of(self, unlearned: np.ndarray, retrained: np.ndarray) -> None:  # type: ignore[override]
            return None

    assert gap(Bare(), np.zeros((3, 4)), np.ones((3, 4))) is None


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
