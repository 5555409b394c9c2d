"""Properties of metrics, intervals and verdicts, each against a slow statement of its definition or a known answer.

As `checks`, for what is made of an attack's scores: called on the code as it is, and on code with a defect planted in it.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from attack import auc, evaluate, roc
from attack.audit.verdicts import RowFacts, judge_rows
from attack.metrics.areas import Areas
from attack.metrics.evaluation import Scores, paired_difference, worst_samples
from attack.metrics.evidence import Confidence
from attack.metrics.roc import auc_matrix, ks_distance

from .build import slow_auc


def areas_are_pairwise() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    scores = np.round(generator.normal(size=200) + 0.5 * labels, 1)
    members, others = scores[labels == 1], scores[labels == 0]
    expected = slow_auc(list(members), list(others))
    assert auc(labels, scores) == pytest.approx(expected, abs=1e-12)
    assert roc(labels, scores).auc == pytest.approx(expected, abs=1e-12)
    halves = [members[:30], members[30:]], [others[:40], others[40:]]
    pairs = [[slow_auc(list(a), list(b)) for b in halves[1]] for a in halves[0]]
    assert auc_matrix(*halves) == pytest.approx(np.asarray(pairs), abs=1e-12)


def rates_below_one_in_n_are_not_measurable() -> None:
    curve = roc(np.repeat([1, 0], 500), np.random.default_rng(0).normal(size=1000))
    assert curve.tpr_at(0.002) is not None
    assert curve.tpr_at(0.0019) is None
    shifted = roc(np.repeat([1, 0], 500), np.append(np.arange(500.0) + 250, np.arange(500.0)))
    assert shifted.tpr_at(0.01) == pytest.approx(np.mean(np.arange(500.0) + 250 >= 495))


def ks_is_the_statistic() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=90), np.round(generator.normal(0.5, 2, 60), 1)
    assert ks_distance(a, b) == pytest.approx(stats.ks_2samp(a, b).statistic)


def side(generator: np.random.Generator, models: int, shift: float, spread: float = 0.5, samples: int = 40) -> Scores:
    """Scores whose models share an offset, so that rows of one model are correlated."""
    offsets = np.repeat(generator.normal(size=models) * spread, samples)
    scores = generator.normal(shift, 1, models * samples) + offsets
    return Scores(scores, np.repeat([f"m{i:02d}" for i in range(models)], samples), np.tile(np.arange(samples), models))


def intervals_cover(draws: int = 400, models: int = 6, d: float = 0.8) -> None:
    """True AUC Φ(d/√(2(1+σ²))) for offsets of deviation σ: 92 to 98.5 % of the 95 % intervals must hold it."""
    generator = np.random.default_rng(0)
    spread = 0.4
    truth = NormalDist().cdf(d / math.sqrt(2 * (1 + spread**2)))
    held = 0
    for draw in range(draws):
        positive, negative = side(generator, models, d, spread), side(generator, models, 0.0, spread)
        low, high = evaluate(positive, negative, seed=draw, bootstrap=400).ci["auc"]
        held += low <= truth <= high
    assert 0.92 <= held / draws <= 0.985, f"{held / draws:.3f}"


def differences_share_their_negatives() -> None:
    """What retrained models have in common cancels: the interval of a difference is narrower than that of two unpaired ones."""
    generator = np.random.default_rng(1)
    narrower = 0
    for draw in range(20):
        negatives = side(generator, 6, 0.0, 1.0)
        method, reference = (
            evaluate(side(generator, 6, shift, 0.1), negatives, seed=draw, bootstrap=300) for shift in (0.6, 0.0)
        )
        difference, interval = paired_difference(method, reference, seed=draw, bootstrap=300)
        assert interval is not None
        assert difference == pytest.approx(method.metrics["auc"] - reference.metrics["auc"])
        widths = [e.ci["auc"][1] - e.ci["auc"][0] for e in (method, reference)]
        narrower += interval[1] - interval[0] < 0.75 * math.hypot(*widths)
    assert narrower > 17


def worst_samples_stand_out() -> None:
    generator = np.random.default_rng(0)
    a, b = side(generator, 6, 0.0, 0.1), side(generator, 6, 0.0, 0.1)
    a.scores[a.sample_ids == 17] += 9.0
    a.scores[a.sample_ids == 5] -= 9.5  # given away as surely, by too low a score, and by a little more
    worst = worst_samples(a, b, count=3)
    assert [(w["sample_id"], w["auc"]) for w in worst[:2]] == [(5, 0.0), (17, 1.0)]
    for found in worst:
        mine, theirs = (list(s.scores[s.sample_ids == found["sample_id"]]) for s in (a, b))
        assert found["auc"] == pytest.approx(slow_auc(mine, theirs))
        assert found["score_difference"] == pytest.approx(np.mean(mine) - np.mean(theirs))


def rows_under_test(low: float) -> list[RowFacts]:
    """The two reference rows and one whose forget samples score `low`, beside unseen images that are as they should be."""
    generator = np.random.default_rng(0)
    negative = side(generator, 8, 0.0)
    names, others = negative.by_model()
    found = []
    for method, shift in (("no_unlearn", 2.0), ("retrain", 0.0), ("pgu", low)):
        members = side(generator, 8, shift).by_model()[1]
        means = Confidence(shift + 0.1 * generator.normal(size=8), 0.1 * generator.normal(size=8))
        areas = {"xgboost": Areas.of(members, others, names)}
        found.append(RowFacts(method, tuple(map(str, range(8))), areas=areas, confidence=means))
    return found


def over_unlearning_is_called_by_its_name() -> None:
    found = judge_rows(rows_under_test(-2.0))[2]
    assert found.word == "over_unlearned"
    assert "Streisand" in found.told()
    assert judge_rows(rows_under_test(0.0))[2].word != "over_unlearned"
