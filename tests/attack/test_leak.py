"""The leak that is left: its definition, its tests and bounds, and what shared parents do to them."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from attack.metrics.leak import Ratio, Sides, failing_models, leak_left, models_needed
from attack.metrics.students import holm, relabelled
from attack.metrics.t_intervals import TAIL
from attack.metrics.traces import traces


def areas(
    mean: float, models: int, generator: np.random.Generator, columns: np.ndarray, spread: float = 0.02
) -> np.ndarray:
    """AUCs around a mean: each model under test and each retrained one adds its own deviation."""
    return mean + generator.normal(0.0, spread, (models, 1)) + columns


def sides(left: float, *, models: int = 12, spread: float = 0.02, seed: int = 0, before: float = 0.8) -> Sides:
    generator = np.random.default_rng(seed)
    columns = generator.normal(0.0, 0.02, (1, models))
    means = (0.5 + left * (before - 0.5), 0.5, before)
    return Sides(*(areas(mean, models, generator, columns, spread) for mean in means))


def test_it_is_the_ratio_of_the_differences() -> None:
    given = sides(0.4)
    method, retrain, before = (side.mean() for side in (given.method, given.retrain, given.before))
    assert leak_left(given).value == pytest.approx((method - retrain) / (before - retrain))


def test_a_bound_is_where_its_test_is_at_its_level() -> None:
    ratio = leak_left(sides(0.4))
    interval = ratio.interval()
    assert interval is not None
    assert ratio.p_above(interval[0]) == pytest.approx(TAIL, abs=1e-6)
    assert ratio.p_below(interval[1]) == pytest.approx(TAIL, abs=1e-6)
    assert interval[0] < ratio.value < interval[1]


def test_with_a_certain_denominator_it_is_students_interval() -> None:
    values = np.random.default_rng(0).normal(1.0, 1.0, 9)
    ratio = Ratio((np.stack([values, np.zeros(9)], axis=1), np.array([[0.0, 2.0], [0.0, 2.0]])))
    expected = stats.t.interval(0.95, 8, loc=values.mean() / 2.0, scale=stats.sem(values) / 2.0)
    assert ratio.interval() == pytest.approx(expected)
    assert ratio.p_above(0.0) == pytest.approx(stats.ttest_1samp(values, 0.0, alternative="greater").pvalue)


@pytest.mark.medium
@pytest.mark.parametrize("models", [5, 12])
def test_it_covers_the_truth_as_often_as_it_says(models: int) -> None:
    missed = 0
    for seed in range(400):
        interval = leak_left(sides(0.3, models=models, spread=0.04, seed=seed)).interval()
        missed += interval is None or not interval[0] <= 0.3 <= interval[1]
    assert 0.01 <= missed / 400 <= 0.08


def test_without_a_leak_before_there_is_no_interval() -> None:
    blind = [ratio for s in range(40) if (ratio := leak_left(sides(0.0, before=0.5, seed=s))).p_denominator >= TAIL]
    assert len(blind) >= 36, "chance alone gives a leak in 2.5 % of cases"
    assert all(ratio.interval() is None for ratio in blind)


def test_models_of_one_parent_count_once() -> None:
    given = sides(0.4, models=6)
    again = Sides(np.repeat(given.method, 4, axis=0), given.retrain, given.before, parents=np.repeat(np.arange(6), 4))
    once = Sides(given.method, given.retrain, given.before, parents=np.arange(6))
    assert again.models == 6
    assert leak_left(again).interval() == pytest.approx(leak_left(once).interval())
    apart = Sides(again.method, given.retrain, given.before)
    wide, narrow = (leak_left(one).interval() for one in (again, apart))
    assert wide is not None
    assert narrow is not None
    assert wide[1] - wide[0] > 1.2 * (narrow[1] - narrow[0])


def test_models_that_are_their_own_parents_have_all_of_the_leak_left() -> None:
    given = sides(0.0)
    same = leak_left(Sides(given.before, given.retrain, given.before, parents=np.arange(12)))
    assert same.value == pytest.approx(1.0)
    assert same.interval() == pytest.approx((1.0, 1.0))


def test_a_failing_model_is_found_and_none_is_made_up() -> None:
    generator = np.random.default_rng(0)
    retrain, before = generator.normal(0.5, 0.02, 8), generator.normal(0.8, 0.02, 8)
    wrong = 0
    for _ in range(200):
        wrong += bool((failing_models(generator.normal(0.5, 0.02, 8), retrain, before, 0.25) * 8 < TAIL).any())
    assert wrong == 0, "none of models that are exact comes near a tolerance of a quarter"
    method = generator.normal(0.5, 0.02, 8)
    method[3] = 0.8
    assert np.flatnonzero(failing_models(method, retrain, before, 0.25) * 8 < TAIL).tolist() == [3]
    assert (failing_models(method, np.full(8, 0.5), before, 0.25) == 1.0).all(), "nothing is known of the spread"


def test_holms_correction_is_as_published() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_models_needed_follow_the_width() -> None:
    assert models_needed(0.0, (-0.5, 0.5), 8, 0.25) == 32, "half the width takes four times the models"
    assert models_needed(0.0, (-0.1, 0.1), 8, 0.25) == 8
    assert models_needed(0.5, (-0.5, 1.5), 8, 0.25) == 32, "or to lie above 0"
    assert models_needed(0.25, (0.1, 0.4), 8, 0.25) is None
    assert models_needed(math.nan, (0.1, 0.4), 8, 0.25) is None
    assert models_needed(0.1, None, 8, 0.25) is None


def phi(models: int, samples: int, seed: int, spread: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    hardness = 2.0 * np.random.default_rng(1).normal(size=samples)
    return hardness + spread * generator.normal(size=(models, 1)) + generator.normal(size=(models, samples))


def test_a_sample_stands_out_where_students_t_says_so() -> None:
    method, retrained = phi(8, 300, 2), phi(24, 300, 3)
    method[:, ::10] += 1.0
    tests = stats.ttest_ind(method, retrained, axis=0)
    limit = stats.t.ppf(0.99, 30)
    found = traces(method, retrained, draws=50)
    assert sorted(found.found) == np.flatnonzero(tests.statistic > limit).tolist()
    assert found.share == pytest.approx((tests.statistic > limit).mean())
    assert found.below == pytest.approx((tests.statistic < -limit).mean())
    both = traces(method, retrained, draws=50, both=True)
    assert both.share == pytest.approx((np.abs(tests.statistic) > stats.t.ppf(0.995, 30)).mean())


def test_chance_is_what_relabelling_gives() -> None:
    found = traces(phi(8, 2000, 2), phi(24, 2000, 3), draws=200)
    assert found.chance == pytest.approx(0.01, abs=0.003)
    assert found.share == pytest.approx(0.01, abs=0.006)


@pytest.mark.parametrize("both", [False, True])
def test_many_samples_are_relabelled_a_part_at_a_time(both: bool) -> None:
    method, retrained = phi(3, 5000, 2), phi(4, 5000, 3)
    tracemalloc.start()
    found = traces(method, retrained, draws=400, both=both)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6, "all relabellings of all samples would take 16 MB for each of several arrays"
    # Relabelling by relabelling, with an independent t.
    values = np.concatenate([method, retrained])
    limit = stats.t.ppf(0.995 if both else 0.99, 5)
    counts = []
    for chosen in relabelled(3, 4, 400, 0)[1:]:
        t = stats.ttest_ind(values[chosen == 1], values[chosen == 0], axis=0).statistic
        counts.append(int(((np.abs(t) if both else t) > limit).sum()))
    assert found.chance == pytest.approx(np.mean(counts) / 5000, rel=1e-9)
    assert found.p_value == (1 + sum(count >= len(found.found) for count in counts)) / 401


def test_exact_models_are_accused_no_more_often_than_the_level_allows() -> None:
    """Also where all samples of a model move together, which a count of independent samples would not survive."""
    p_values = [traces(phi(6, 60, 2 * s, 0.4), phi(12, 60, 2 * s + 1, 0.4), draws=99).p_value for s in range(200)]
    assert np.mean(np.asarray(p_values) <= 0.05) <= 0.09


def test_a_few_samples_remembered_in_full_are_found() -> None:
    method = phi(8, 200, 2)
    method[:, :10] += 3.0
    found = traces(method, phi(24, 200, 3))
    assert set(found.found) >= set(range(10))
    assert found.p_value <= 0.003


def test_outputs_without_spread_do_not_stand_out_by_rounding() -> None:
    same = np.zeros((4, 5))
    found = traces(same, np.zeros((6, 5)), draws=20)
    assert (found.share, found.below, found.p_value) == (0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="at least 2 models"):
        traces(same[:1], same)
