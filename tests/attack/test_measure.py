"""Measures and rows: one way to subtract, and a border to JSON that loses nothing."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from scipy import stats

from attack.metrics.areas import Areas
from attack.metrics.evaluation import paired_difference
from attack.metrics.measure import Measure, mean_measure
from attack.metrics.row import Attacker, Row, auc_attack, auc_names, metric_name


def models(values: np.ndarray, kind: str = "original") -> dict[str, float]:
    return {f"{kind} {i}": float(value) for i, value in enumerate(values)}


def test_the_same_models_are_subtracted_one_by_one() -> None:
    """The spread between models is large, that of their differences is not."""
    generator = np.random.default_rng(0)
    level = generator.normal(0.0, 10.0, 5)
    first, second = level + generator.normal(1.0, 0.1, 5), level
    apart = mean_measure(models(first)) - mean_measure(models(second))
    expected = stats.ttest_rel(first, second).confidence_interval()
    assert apart.interval == pytest.approx((expected.low, expected.high))
    assert apart.value == pytest.approx((first - second).mean())
    assert apart.models == 5
    others = mean_measure(models(first)) - mean_measure(models(second, "retrain"))
    assert others.low is not None
    assert others.low < -5.0 < 5.0 < (others.high or 0.0)


def test_independent_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    held = []
    for _ in range(2000):
        first = mean_measure(models(generator.normal(3.0, 1.0, 4)))
        second = mean_measure(models(generator.normal(1.0, 2.0, 6), "retrain"))
        apart = first - second
        assert apart.low is not None
        assert apart.high is not None
        held.append(apart.low <= 2.0 <= apart.high)
    assert 0.94 <= np.mean(held) <= 0.99


def test_known_spreads_are_covered_at_the_rate_that_is_promised() -> None:
    """Of intervals whose width is certain: 95 %, neither more nor less."""
    generator = np.random.default_rng(0)
    pairs = zip(generator.normal(3.0, 1.0, 4000), generator.normal(1.0, 2.0, 4000), strict=True)
    apart = [Measure(x, x - 1.96, x + 1.96) - Measure(y, y - 3.92, y + 3.92) for x, y in pairs]
    assert 0.94 < np.mean([each.low <= 2.0 <= each.high for each in apart if each.low and each.high]) < 0.96


def test_a_difference_turns_round_with_its_interval() -> None:
    left, right = Measure(0.6, 0.5, 0.75), Measure(0.4, 0.38, 0.5)
    forward, back = left - right, right - left
    assert forward.value == pytest.approx(-(back.value or 0.0))
    assert forward.interval == pytest.approx((-(back.high or 0.0), -(back.low or 0.0)))


def test_a_rate_of_nought_keeps_its_width_in_a_difference() -> None:
    """No spread between models is no certainty."""
    apart = Measure(0.0, 0.0, 0.8) - Measure(0.0, 0.0, 0.6)
    assert apart.interval == pytest.approx((-0.6, 0.8))


def test_aucs_against_the_same_retrained_models_are_subtracted_by_the_paired_bootstrap() -> None:
    generator = np.random.default_rng(2)
    shared = [generator.normal(luck, 1.0, 50) for luck in generator.normal(0.0, 0.5, 5)]
    ids = np.arange(5)
    sides = [Areas.of([generator.normal(s, 1.0, 50) for _ in range(5)], shared, ids) for s in (0.3, 0.0)]
    first, second = (Measure.of(area.mean, [0.2, 0.8], areas=area) for area in sides)
    difference, interval = paired_difference(*sides, seed=7)
    found = first.minus(second, seed=7)
    assert found.value == pytest.approx(difference)
    assert list(found.interval or ()) == interval
    other = Areas(sides[1].matrix, sides[1].sizes, ids + 1)
    loose = first - Measure.of(other.mean, [0.2, 0.8], areas=other)
    assert loose.interval is not None
    assert interval is not None
    assert loose.interval[1] - loose.interval[0] > interval[1] - interval[0]


def test_plain_numbers_move_an_interval() -> None:
    measure = Measure(0.4, 0.3, 0.6, {"a": 0.4}, 1)
    assert (measure - 0.1).interval == pytest.approx((0.2, 0.5))
    turned = 1.0 - measure
    assert (turned.value, *(turned.interval or ())) == pytest.approx((0.6, 0.4, 0.7))
    assert turned.by_model == pytest.approx({"a": 0.6})
    assert measure.times(-2.0).interval == pytest.approx((-1.2, -0.6))


@pytest.mark.parametrize(
    ("left", "right"), list(product([Measure(None), Measure(1.0), Measure(1.0, 0.5, 1.5)], repeat=2))
)
def test_nothing_comes_of_what_was_not_measured(left: Measure, right: Measure) -> None:
    apart = left - right
    assert apart.known == (left.known and right.known)
    assert (apart.interval is not None) == (left.interval is not None and right.interval is not None)


def test_one_model_has_no_interval() -> None:
    one = mean_measure({"a": 1.0})
    assert one.interval is None
    assert (one - one).interval is None
    assert mean_measure({}).value is None


def row() -> Row:
    return Row(
        method="pgu",
        params={"gamma": 0.9},
        metrics={
            "auc": Measure(0.5, 0.4, 0.6, {"original-3": 0.4, "original-4": 0.6}, 2),
            "tpr_at_fpr_0.001": Measure(None, models=2),
            "streisand": Measure(False, models=2),
            "rmia/auc": Measure(0.55, None, None, {}, 2),
        },
        seconds=1.5,
        models=2,
        retrained_models=3,
        sources=("original-3", "original-4"),
        attacks={"rmia": Attacker("in_process", {"gamma": 1.0}, None, 0.5, ("few",), seconds=2.0)},
        worst_samples={"klom": [{"sample_id": 7, "value": None}]},
        distance_models=2,
        notes=("a note",),
        verdict="Forgot: 0.500",
    )


def test_a_row_comes_back_from_json_as_it_was() -> None:
    document = json.loads(json.dumps(row().to_json()))
    assert document["metrics"]["streisand"] is False
    assert document["ci"] == {"auc": [0.4, 0.6]}
    back = Row.from_json(document)
    assert back.to_json() == document
    assert back["auc"] == row()["auc"]
    assert back["no such metric"].value is None


def test_rows_of_an_older_version_pair_by_place_and_rows_of_two_experiments_never() -> None:
    old = {"status": "done", "metrics": {"error_test": 9.0}, "ci": {"error_test": [8.0, 10.0]}, "models": 3}
    old |= {"by_model": {"error_test": [8.5, 9.0, 9.5]}}
    pgu, eu_k, retrain = (Row.from_json({**old, "method": name}) for name in ("pgu", "eu_k", "retrain"))
    assert (pgu["error_test"] - eu_k["error_test"]).interval == (0.0, 0.0)
    assert (pgu["error_test"] - retrain["error_test"]).interval == pytest.approx((-(2**0.5), 2**0.5))
    elsewhere = Row.from_json({**old, "method": "pgu"}, experiment="figure6")
    assert (pgu["error_test"] - elsewhere["error_test"]).interval == pytest.approx((-(2**0.5), 2**0.5))


def test_rows_read_what_is_damaged_as_not_measured() -> None:
    found = Row.from_json({"metrics": {"auc": 0.5}, "ci": {"auc": [None, 0.6]}, "attacks": {"xgboost": None}})
    assert found["auc"].interval is None
    assert not found.done
    assert Row.from_json({}).method == "?"


def test_names_of_metrics() -> None:
    assert [metric_name(attack, "auc") for attack in ("xgboost", "lira")] == ["auc", "lira/auc"]
    assert [auc_attack(name) for name in ("auc", "lira/auc", "lira/f1", "f1")] == ["xgboost", "lira", None, None]
    assert auc_names({"rmia/auc", "f1", "auc", "lira/auc"}) == ["auc", "lira/auc", "rmia/auc"]
    assert list(row().aucs()) == ["xgboost", "rmia"]
