"""One model among shadow models: statements that hold as often as they say, whatever the order, and a slow statement."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from attack.metrics.one_model import standing

SAMPLES, SHADOWS = 40, 12


def models(generator: np.random.Generator, middle: np.ndarray, shift: float, count: int, common: float) -> np.ndarray:
    """φ of models: samples differ, a model's samples have something in common, members are surer by `shift`."""
    noise = generator.normal(size=(count, len(middle)))
    return np.asarray(middle + shift + common * generator.normal(size=(count, 1)) + noise)


def drawn(seed: int, own: float, gap: float = 1.0, common: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    middle = generator.normal(size=SAMPLES)
    sides = [models(generator, middle, shift, SHADOWS, common) for shift in (gap, 0.0)]
    return models(generator, middle, own, 1, common)[0], sides[0], sides[1]


def test_a_retrained_model_is_accused_as_seldom_as_promised() -> None:
    found = [standing(*drawn(seed, 0.0)) for seed in range(800)]
    accused = np.mean([each.low > 0.0 for each in found])
    stand_out = np.mean([each.samples_stand_out for each in found])
    ranks = np.asarray([each.rank_above for each in found])
    assert accused < 0.05
    assert stand_out < 0.05
    for level in (2, 4, 6):  # of 13 equally likely ranks
        share = level / (SHADOWS + 1)
        assert abs((ranks <= share + 1e-9).mean() - share) < 3.5 * np.sqrt(share * (1 - share) / 800)


def test_a_model_that_saw_the_samples_is_found_and_a_quarter_left_is_not_called_forgotten() -> None:
    members = [standing(*drawn(seed, 1.0, common=0.1)) for seed in range(100)]
    assert np.mean([each.low > 0.0 for each in members]) > 0.9
    assert all(0.3 < each.left < 2.0 for each in members)
    partly = [standing(*drawn(seed, 0.75, gap=3.0, common=0.1)) for seed in range(400)]
    assert np.mean([each.high < 0.25 for each in partly]) < 0.05
    gone = [standing(*drawn(seed, 0.0, gap=6.0, common=0.1)) for seed in range(100)]
    assert np.mean([each.high < 0.25 for each in gone]) > 0.9, "with a clear leak a forgotten one can be told"


def test_a_damaged_model_is_below_and_never_remembers() -> None:
    for seed in range(20):
        found = standing(*drawn(seed, -30.0))
        assert found.high < 0.0
        assert not found.found


def test_a_few_samples_that_stand_out_are_named() -> None:
    own, originals, retrained = drawn(3, 0.0)
    own[[5, 17, 30]] += 12.0
    found = standing(own, originals, retrained)
    assert set(found.found) >= {5, 17, 30}
    assert found.samples_stand_out


def test_the_order_of_models_does_not_count() -> None:
    own, originals, retrained = drawn(1, 0.4)
    one, other = standing(own, originals, retrained), standing(own, originals[::-1], retrained[::-1])
    for name in ("own", "left", "low", "high", "rank_above"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9)
    assert one.found == other.found


def test_a_slow_statement_of_scores_and_tails() -> None:
    own, originals, retrained = drawn(7, 0.5)
    own[4] += 9.0
    found = standing(own, originals, retrained, fpr=0.05)
    pool = [*retrained, own]
    variance = np.mean([np.var(originals[:, s], ddof=1) for s in range(SAMPLES)])
    for place in (0, 5, len(pool) - 1):
        rest = [model for number, model in enumerate(pool) if number != place]
        ratios = []
        for s in range(SAMPLES):
            inside, outside = originals[:, s].mean(), np.mean([model[s] for model in rest])
            density = [stats.norm.logpdf(pool[place][s], middle, np.sqrt(variance)) for middle in (inside, outside)]
            ratios.append(density[0] - density[1])
        score = found.own if place == len(pool) - 1 else found.retrained[place]
        assert score == pytest.approx(np.mean(ratios), rel=1e-9)
    listed = []
    for s in range(SAMPLES):
        side = retrained[:, s]
        t = (own[s] - side.mean()) / (side.std(ddof=1) * np.sqrt(1 + 1 / len(side)))
        if stats.t.sf(t, len(side) - 1) < 0.05:
            listed.append(s)
    assert sorted(found.found) == listed
    assert 4 in listed


def test_nothing_to_see_and_too_few() -> None:
    own, originals, retrained = drawn(2, 0.0, gap=0.0)
    assert not standing(own, originals, retrained).sees
    with pytest.raises(ValueError, match="at least 5 shadow models"):
        standing(own, originals[:4], retrained)
    with pytest.raises(ValueError, match="not finite"):
        standing(np.full(SAMPLES, np.nan), originals, retrained)
