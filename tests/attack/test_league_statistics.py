"""The statistics of a league: bands, ranks, spreads, power. Each against a slow statement and by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from attack.metrics.measure import Measure, mean_measure
from attack.metrics.null_band import Band
from attack.metrics.planning import (
    Spreads,
    models_for_gap,
    models_for_ranking,
    power_of_gap,
    power_of_ranking,
)
from attack.metrics.ranks import Call, Contender, look, nearer, pairs_of, smaller
from attack.metrics.spread import components, over_seeds, spread_of
from attack.metrics.students import holm

LEAGUES = 400


def measure(values: np.ndarray, kind: str = "original") -> Measure:
    return mean_measure({f"{kind} {i}": float(value) for i, value in enumerate(values)})


def contender(name: str, values: np.ndarray, group: str = "forget") -> Contender:
    return Contender(name, group, measure(values))


# ------------------------------ the band of chance


def test_the_band_is_the_prediction_interval_of_one_more_row() -> None:
    values = np.asarray([0.48, 0.52, 0.55, 0.47, 0.50])
    band = Band.of(measure(values))
    assert band is not None
    reach = stats.t.ppf(0.975, 4) * values.std(ddof=1) * math.sqrt(1 / 5 + 1 / 3)
    assert band.interval(3) == pytest.approx((values.mean() - reach, values.mean() + reach))
    statistic = (0.6 - values.mean()) / (values.std(ddof=1) * math.sqrt(1 / 5 + 1 / 3))
    assert band.p_value(0.6, 3) == pytest.approx(2 * stats.t.sf(statistic, 4))


@given(st.floats(-1, 2), st.integers(1, 20))
def test_a_value_is_outside_exactly_where_its_p_value_is_small(value: float, models: int) -> None:
    band = Band.of(Measure.of(0.02, [0.0, 0.09], models=6))
    assert band is not None
    low, high = band.interval(models)
    assert (band.p_value(value, models) < 0.05) == (not low <= value <= high)


def test_chance_alone_leaves_the_band_in_one_row_of_twenty() -> None:
    generator = np.random.default_rng(0)
    outside = 0
    for _ in range(2000):
        retrain, row = generator.normal(0.5, 0.03, 4), generator.normal(0.5, 0.03, 6)
        band = Band.of(measure(retrain))
        assert band is not None
        low, high = band.interval(6)
        outside += not low <= row.mean() <= high
    assert 0.04 < outside / 2000 < 0.06


def test_no_band_where_nothing_says_how_far_chance_goes() -> None:
    assert Band.of(Measure(None)) is None
    assert Band.of(Measure(0.5)) is None
    assert Band.of(measure(np.asarray([0.5]))) is None
    rates = Measure.of(0.0, [0.0, 0.1], models=4)  # no model found: Clopper and Pearson's interval is one-sided
    band = Band.of(rates)
    assert band is not None
    assert band.interval(4) == pytest.approx((0.0, 0.1 * math.sqrt(2)))


# ------------------------------ places


def slow_holm(p_values: list[float], level: float) -> set[int]:
    """Step down: reject the smallest while it is at most level over what is left."""
    left, rejected = dict(enumerate(p_values)), set()
    while left:
        index = min(left, key=lambda i: left[i])
        if left[index] > level / len(left):
            break
        rejected.add(index)
        del left[index]
    return rejected


@given(st.lists(st.floats(0, 0.2), max_size=8), st.floats(0.001, 0.2))
def test_holm_rejects_what_its_steps_do(p_values: list[float], level: float) -> None:
    adjusted = holm(p_values)
    near = any(abs(value - level) < 1e-9 for value in adjusted)
    assert near or {i for i, value in enumerate(adjusted) if value <= level} == slow_holm(p_values, level)


def test_nearer_is_the_larger_of_two_t_tests() -> None:
    generator = np.random.default_rng(1)
    original = generator.normal(0, 0.02, 6)
    a, b = 0.51 + original + generator.normal(0, 0.01, 6), 0.56 + original + generator.normal(0, 0.01, 6)
    retrained = generator.normal(0.5, 0.02, 5)
    found = nearer(contender("a", a), contender("b", b), measure(retrained, "retrain"))
    expected = max(stats.ttest_rel(b, a).pvalue, stats.ttest_ind(a + b, 2 * retrained, equal_var=False).pvalue)
    assert found.p == pytest.approx(expected)
    assert (found.better, found.worse) == ("a", "b")
    turned = nearer(contender("b", b), contender("a", a), measure(retrained, "retrain"))
    assert (turned.better, turned.p) == ("a", pytest.approx(expected))


def test_over_unlearning_is_as_far_as_remembering() -> None:
    retrained = measure(np.asarray([0.49, 0.5, 0.51]), "retrain")
    forgets = contender("forgets", np.asarray([0.505, 0.5, 0.495]))
    over = contender("over", np.asarray([0.29, 0.30, 0.31]))
    remembers = contender("remembers", np.asarray([0.69, 0.70, 0.71]))
    assert nearer(forgets, over, retrained).better == "forgets"
    assert nearer(forgets, over, retrained).p < 0.01
    assert nearer(over, remembers, retrained).p > 0.9, "0.3 and 0.7 are equally far from 0.5"


def test_smaller_distance_by_intervals() -> None:
    near = Contender("near", "forget", Measure.of(1.0, [0.6, 1.4]))
    far = Contender("far", "forget", Measure.of(2.0, [1.5, 2.5]))
    expected = 2 * stats.norm.sf(1.0 / math.hypot(0.4 / 1.959964, 0.5 / 1.959964))
    assert smaller(far, near).better == "near"
    assert smaller(far, near).p == pytest.approx(expected, rel=1e-5)
    assert smaller(near, Contender("unknown", "forget", Measure(None))).p == 1.0


def test_places_are_what_calls_leave_open() -> None:
    retrained = measure(np.asarray([0.5, 0.5001, 0.4999, 0.5]), "retrain")
    noise = np.asarray([0.001, -0.001, 0.0005, -0.0005])
    found = look(
        [
            contender("first", 0.5 + noise),
            contender("twin", 0.5 - noise),
            contender("last", 0.8 + 2 * noise[::-1]),
            contender("elsewhere", 0.5 + noise, "retain"),
        ],
        retrained,
    )
    places = {name: (found.place(name).low, found.place(name).high) for name in ("first", "twin", "last", "elsewhere")}
    assert places == {"first": (1, 2), "twin": (1, 2), "last": (3, 3), "elsewhere": (1, 1)}
    assert not found.winners, "two share the first place, and a group of one is no contest"
    assert found.settled("last")
    assert not found.settled("first")
    assert len(pairs_of(found.contenders)) == 3


def test_one_model_tells_nothing() -> None:
    found = look([contender("a", np.asarray([0.5])), contender("b", np.asarray([0.9]))], measure(np.asarray([0.5])))
    assert not found.calls


League = Callable[[np.random.Generator, int], tuple[list[np.ndarray], np.ndarray]]


def equals(generator: np.random.Generator, models: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Four methods like Retrain: the same mean, and originals that they share."""
    shared = generator.normal(0, 0.02, models)
    return [0.5 + shared + generator.normal(0, 0.01, models) for _ in range(4)], generator.normal(0.5, 0.022, models)


def one_better(generator: np.random.Generator, models: int) -> tuple[list[np.ndarray], np.ndarray]:
    """One method like Retrain, three that are 0.05 away."""
    values = [0.5 + generator.normal(0, 0.02, models), *(0.55 + generator.normal(0, 0.02, (3, models)))]
    return values, generator.normal(0.5, 0.02, models)


def played(league: League, models: int, looks: int, seed: int) -> tuple[int, int]:
    """Returns in how many leagues any two methods were told apart, and in how many the first one won."""
    generator = np.random.default_rng(seed)
    called = won = 0
    for _ in range(LEAGUES):
        values, retrained = league(generator, models)
        calls: tuple[Call, ...] = ()
        stopped: dict[str, int] = {}
        for number in range(1, looks + 1):
            seen = math.ceil(models * number / looks)
            rows = [contender(str(i), row[: stopped.get(str(i), seen)]) for i, row in enumerate(values)]
            standing = look(rows, measure(retrained, "retrain"), earlier=calls, number=number, looks=looks)
            calls = standing.calls
            for row in rows:
                if standing.settled(row.name):
                    stopped.setdefault(row.name, seen)
        called += bool(calls)
        won += standing.winners.get("forget") == "0"
    return called, won


@pytest.mark.parametrize("looks", [1, 2])
def test_equal_methods_are_told_apart_in_at_most_one_league_of_twenty(looks: int) -> None:
    called, _ = played(equals, 6, looks, seed=2)
    # 5 % of 400 leagues are 20; chance adds at most 9 in 97.5 % of simulations
    assert called <= 29


@pytest.mark.parametrize("looks", [1, 2])
def test_a_better_method_is_found_as_often_as_promised(looks: int) -> None:
    spreads = Spreads(method=0.02, retrain=0.02)
    level = 0.05 / looks
    models = models_for_ranking(0.05, spreads, rivals=3, level=level)
    promised = power_of_ranking(0.05, spreads, models, rivals=3, level=level)
    assert promised >= 0.8
    _, won = played(one_better, models, looks, seed=3)
    assert won / LEAGUES >= promised - 0.04


@pytest.mark.medium
def test_a_first_look_alone_would_call_too_often() -> None:
    """Without spending the level over looks, more than 5 % would be called: the correction is not idle."""
    generator = np.random.default_rng(4)
    called = 0
    for _ in range(LEAGUES):
        a, b = generator.normal(0.6, 0.03, 20), generator.normal(0.6, 0.03, 20)
        retrained = generator.normal(0.5, 0.001, 20)
        called += any(
            look([contender("a", a[:n]), contender("b", b[:n])], measure(retrained, "retrain")).calls
            for n in range(2, 21)
        )
    assert called / LEAGUES > 0.1


# ------------------------------ models and seeds


def test_components_of_variance_are_told_apart() -> None:
    generator = np.random.default_rng(5)
    values = generator.normal(0, 0.03, (4000, 1)) + generator.normal(0, 0.05, (4000, 3))
    models, seeds = components(values)
    assert models == pytest.approx(0.03, rel=0.1)
    assert seeds == pytest.approx(0.05, rel=0.05)
    table = stats.f_oneway(*values[:5])
    between, within = 3 * values[:5].mean(axis=1).var(ddof=1), values[:5].var(axis=1, ddof=1).mean()
    assert between / within == pytest.approx(table.statistic)
    found = components(values[:5])
    assert found[1] ** 2 == pytest.approx(within)
    assert found[0] ** 2 == pytest.approx(max(0.0, (between - within) / 3))


def test_the_interval_over_seeds_has_models_as_units() -> None:
    values = np.asarray([[0.5, 0.6, 0.7], [0.4, 0.5, 0.3], [0.6, 0.6, 0.9]])
    found = over_seeds([measure(column) for column in values.T])
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values.mean(axis=1)))
    assert found.value == pytest.approx(values.mean())
    assert found.interval == pytest.approx((low, high))
    spread = spread_of([measure(column) for column in values.T], 0.5)
    assert spread.worst == ("original 2", pytest.approx(0.7))
    assert spread.models is not None
    assert spread.seeds is not None
    assert 0.0 < (spread.from_seeds or 0.0) < 1.0
    alone = spread_of([measure(values[:, 0])], 0.5)
    assert (alone.models, alone.seeds) == (pytest.approx(values[:, 0].std(ddof=1)), None)


def test_a_seed_that_was_not_measured_leaves_no_mean() -> None:
    assert not over_seeds([measure(np.asarray([0.5, 0.6])), Measure(None)]).known
    rates = over_seeds([Measure.of(0.2, [0.1, 0.3], models=4), Measure.of(0.4, [0.2, 0.6], models=4)])
    assert (rates.value, rates.interval) == (pytest.approx(0.3), pytest.approx((0.15, 0.45)))


# ------------------------------ how many models


def test_power_is_that_of_the_noncentral_t() -> None:
    """Cohen, Statistical Power Analysis (1988): 64 a side find a medium effect, d = 0.5, in 80 % of cases."""
    assert models_for_gap(0.5, Spreads(1.0, 1.0)) == 64
    assert models_for_gap(0.8, Spreads(1.0, 1.0)) == 26
    for gap, models in ((0.5, 64), (1.0, 5), (3.0, 2), (0.1, 300)):
        freedom, shift = 2 * (models - 1), gap / math.sqrt(2 / models)
        critical = stats.t.ppf(0.975, freedom)
        expected = stats.nct.sf(critical, freedom, shift) + stats.nct.cdf(-critical, freedom, shift)
        assert power_of_gap(gap, Spreads(1.0, 1.0), models) == pytest.approx(expected, abs=2e-4)


def test_power_by_simulation() -> None:
    generator = np.random.default_rng(6)
    mine, theirs = generator.normal(0.53, 0.04, (4000, 9)), generator.normal(0.5, 0.02, (4000, 9))
    found = (stats.ttest_ind(mine, theirs, axis=1, equal_var=False).pvalue < 0.05).mean()
    assert power_of_gap(0.03, Spreads(0.04, 0.02), 9) == pytest.approx(found, abs=0.03)


@pytest.mark.medium
@settings(max_examples=40)
@given(st.floats(0.02, 0.2), st.floats(0.001, 0.1), st.floats(0.001, 0.1), st.integers(1, 20))
def test_more_models_never_find_less(gap: float, mine: float, theirs: float, rivals: int) -> None:
    spreads = Spreads(mine, theirs)
    needed = models_for_gap(gap, spreads)
    assert power_of_gap(gap, spreads, needed) >= 0.8
    assert needed == 2 or power_of_gap(gap, spreads, needed - 1) < 0.8
    assert models_for_ranking(gap, spreads, rivals) >= models_for_ranking(gap, spreads, 1)
    assert models_for_gap(2 * gap, spreads) <= needed


@pytest.mark.parametrize("gap", [0.0, -0.1, math.inf, math.nan])
def test_a_gap_that_is_none_is_refused(gap: float) -> None:
    with pytest.raises(ValueError, match="gap"):
        models_for_gap(gap, Spreads(0.1, 0.1))
