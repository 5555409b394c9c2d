"""KLoM, forgetting quality ε and the Kolmogorov–Smirnov distance against slow statements and known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from attack import DIVERGENCES, ForgettingQuality, KLoM
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
