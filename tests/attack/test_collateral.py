"""The collateral audit on outputs whose truth is known: who was hurt is named, and nobody is where nobody was."""

from __future__ import annotations

import itertools
import json
import statistics

import numpy as np
import pytest

from attack.audit.collateral import Side, collateral
from attack.metrics.apart import apart
from attack.metrics.harm import Harm

SAMPLES, UNSEEN = 200, 100
GROUP = np.arange(20, 35)  # the samples that a planted defect is about


def side(generator: np.random.Generator, models: int, *, shift: float = 0.0, damage: float = 0.0) -> Side:
    """Models whose φ has an offset of their own. `shift`: of the group's φ. `damage`: to all φ alike."""
    offset = generator.normal(0.0, 0.5, (models, 1))
    centres = np.random.default_rng(7).normal(2.0, 1.0, SAMPLES)
    retained = generator.normal(centres, 1.0, (models, SAMPLES)) + offset
    retained[:, GROUP] += shift
    unseen = generator.normal(0.5, 1.5, (models, UNSEEN)) + offset
    retained, unseen = (values * (1.0 - damage) - 3.0 * damage for values in (retained, unseen))
    return Side(retained, retained > 0.0, unseen, unseen > 0.0)


def audit(mine: Side, retrained: Side, before: Side | None, seed: int = 0) -> Harm:
    codes = np.full(SAMPLES, 0)
    codes[GROUP] = 1
    groups = {"class": np.arange(SAMPLES) % 5, "team": codes}
    return collateral(
        mine,
        retrained,
        before,
        sample_ids=np.arange(SAMPLES) * 10,
        groups=groups,
        unseen_groups={"class": np.arange(UNSEEN) % 5},
        seed=seed,
    )


def test_a_recognisable_group_is_found_and_named() -> None:
    generator = np.random.default_rng(0)
    found = audit(side(generator, 5, shift=12.0), side(generator, 10), side(generator, 5))
    assert {int(each.what) // 10 for each in found.samples} == set(GROUP.tolist())
    assert found.easier == len(GROUP)
    assert all(each.low is not None and each.low > 0.0 for each in found.samples)
    first, second = found.exposure["team"]
    assert (first.what, first.clear) == ("1", True)
    assert not second.clear
    assert found.auc.value > found.auc.retrain
    assert Harm.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("mine", "retrained", "before"),
    [
        ((12.0, 0.0), (12.0, 0.0), (0.0, 0.0)),  # Retrain drifts as far: not the method's doing
        ((12.0, 0.0), (0.0, 0.0), (12.0, 0.0)),  # so it was before
        ((0.0, 0.6), (0.0, 0.0), (0.0, 0.0)),  # damage to all alike
    ],
)
def test_what_is_not_the_methods_doing_is_not_blamed_on_it(
    mine: tuple[float, float], retrained: tuple[float, float], before: tuple[float, float]
) -> None:
    generator = np.random.default_rng(1)
    sides = [
        side(generator, models, shift=shift, damage=damage)
        for models, (shift, damage) in ((5, mine), (10, retrained), (5, before))
    ]
    found = audit(*sides)
    assert found.easier == 0
    assert not any(each.clear for each in found.exposure["team"])


@pytest.mark.medium
def test_nobody_is_found_where_nothing_was_planted() -> None:
    generator = np.random.default_rng(2)
    count = 60
    found = [
        audit(side(generator, 5), side(generator, 8), side(generator, 5) if i % 2 else None, i).easier > 0
        for i in range(count)
    ]
    assert sum(found) <= 8, "at most 5 % of experiments; 8 of 60 would come in 1 of 100"


def test_one_error_rate_for_all() -> None:
    generator = np.random.default_rng(3)
    wrong = 0
    for i in range(200):
        scale = generator.exponential(size=40)
        values = [generator.standard_t(4, (n, 40)) * scale + generator.normal(size=(n, 1)) for n in (5, 6)]
        found = apart(*values, seed=i, draws=199)
        wrong += bool((found.low > 0).any() or (found.high < 0).any())
    assert 1 <= wrong <= 20, "5 % of 200 are 10; more than 20 would come in 1 of 1,000"


def test_intervals_are_the_slow_statement_of_them() -> None:
    generator = np.random.default_rng(4)
    mine, theirs = generator.normal(size=(3, 4)), generator.normal(size=(3, 4))
    found = apart(mine, theirs, seed=0, draws=4000)
    everyone = np.concatenate([mine, theirs]).tolist()
    constant = (
        0.1 * statistics.median(statistics.stdev(column) for column in zip(*everyone, strict=True)) * (2 / 3) ** 0.5
    )

    def student(a: list[float], b: list[float]) -> tuple[float, float]:
        pooled = (2 * statistics.variance(a) + 2 * statistics.variance(b)) / 4
        return statistics.mean(a) - statistics.mean(b), (pooled * 2 / 3) ** 0.5 + constant

    largest = []
    for chosen in itertools.combinations(range(6), 3):
        rest = [i for i in range(6) if i not in chosen]
        each = [student([everyone[i][s] for i in chosen], [everyone[i][s] for i in rest]) for s in range(4)]
        largest.append(max(abs(d) / e for d, e in each))
    limit = sorted(largest)[int(0.95 * len(largest))]  # every relabelling, in place of drawn ones
    for s in range(4):
        difference, error = student(mine[:, s].tolist(), theirs[:, s].tolist())
        assert found.difference[s] == pytest.approx(difference)
        assert found.high[s] == pytest.approx(difference + limit * error)


def test_a_small_group_does_not_blind_the_others() -> None:
    generator = np.random.default_rng(5)
    mine, theirs = generator.normal(size=(5, 3)), generator.normal(size=(5, 3))
    mine[:, 0] += 12.0
    mine[:, 2], theirs[:, 2] = [1, 1, 1, 0, 0], [0, 0, 1, 1, 0]  # one sample: right or wrong
    found = apart(mine, theirs)
    assert np.isfinite(found.low).all()
    assert (found.low > 0).tolist() == [True, False, False]


def test_two_models_a_side_find_nothing() -> None:
    theirs = np.array([[0.0] * 3, [0.1] * 3])
    mine = theirs + 9.0
    found = apart(mine, theirs)
    assert not (found.low > 0).any()
    with pytest.raises(ValueError, match="at least 2 models"):
        apart(mine[:1], theirs)
    same = apart(np.ones((3, 2)), np.ones((4, 2)))
    assert np.array_equal(same.low, np.zeros(2))
