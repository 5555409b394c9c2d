"""Every interval of a result holds the truth about as often as it says, in the benchmark's simulation; and would not, were it broken."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import integrate, special, stats

import attack.metrics.areas
import attack.metrics.bootstrap
import attack.metrics.evaluation
import attack.metrics.t_intervals
import attack.metrics.tiny
from attack.metrics.roc import auc

from .defects import Plant, percentile_interval, replaced, rows_for_models

ROOT = Path(__file__).parents[2]
LEAST = 0.9  # 2.3 standard errors of 100 repetitions below 0.95


@lru_cache(maxsize=1)
def bench() -> ModuleType:
    """The benchmark that measures coverage, as a module."""
    spec = importlib.util.spec_from_file_location("bench_of_coverage", ROOT / "benchmarks/attack/coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


def tries(
    case: str, members: int, repetitions: int, samples: int = 200, others: int | None = None
) -> Iterator[dict[str, bool]]:
    """Returns which intervals hold the truth, by metric, in one repetition after another.

    `others`: how many retrained models there are; None for as many as `members`.
    """
    module = bench()
    others = members if others is None else others
    cell = module.Cell(case, members, others, samples)
    truth = module.population(case, samples).truth(members, others)
    for seed in range(repetitions):
        drawn = module.Drawn.draw(cell, np.random.default_rng([seed, members]))
        yield {name: bool(low <= truth[name] <= high) for name, (low, high) in drawn.ours(seed).items()}


MEANS = ("recall", "error_7", "error_0.5")
BOTH = ("balanced_accuracy", "precision", "f1")
AREAS = ("auc", "auc_minus_retrain")
RARE = ("tpr_at_fpr_0.01", "tpr_at_fpr_0.001")


@pytest.mark.medium
@pytest.mark.parametrize(
    ("case", "models", "names"),
    [
        ("weak", 3, (*MEANS, *BOTH, "tpr_at_fpr_0.01", "tiny_scores")),
        pytest.param("weak", 5, (*AREAS, *RARE, *MEANS, *BOTH, "tiny_scores"), marks=pytest.mark.slow),
        ("heavy-strong", 5, (*RARE, *MEANS, *BOTH, "tiny_scores")),
    ],
)
def test_nine_in_ten_intervals_hold_the_truth_at_least(case: str, models: int, names: tuple[str, ...]) -> None:
    found = list(tries(case, models, 100))
    shares = {name: np.mean([each[name] for each in found]) for name in names}
    assert {name: share for name, share in shares.items() if share < LEAST} == {}


def normal_for_student(_: Any) -> Any:
    return lambda freedom, level: NormalDist().inv_cdf(level)


def rows_taken_for_independent(_: Any) -> Any:
    def variance(self: Any) -> float:
        return float(self.value * (1.0 - self.value) / self.rows.sum())

    return property(variance)


def one_side_certain(real: Any) -> Any:
    return lambda of, slopes, members, others: real(of, (slopes[0], 0.0), members, others)


def threshold_certain(real: Any) -> Any:
    return lambda values, models, beyond, allowed: real(np.full(9, beyond.value), models, beyond, allowed)


def bootstrap_alone(_: Any) -> Any:
    return lambda values, models, beyond, allowed: attack.metrics.bootstrap.expanded_interval(values, models)


def of_these_models_only(real: Any) -> Any:
    """Negatives are not resampled: the interval is for just the retrained models at hand."""
    return lambda models, draws, generator: np.ones((draws, models))


# Models on both sides, or under test and retrained.
BROKEN: dict[str, tuple[Plant, str, int | tuple[int, int], str]] = {
    "areas over rows": (replaced(attack.metrics.evaluation.Scores, "by_model", rows_for_models), "weak", 3, "auc"),
    "areas not widened": (
        replaced(attack.metrics.evaluation, "expanded_interval", percentile_interval),
        "weak",
        3,
        "auc",
    ),
    "a difference not widened": (
        replaced(attack.metrics.areas, "expanded_interval", percentile_interval),
        "weak",
        3,
        "auc_minus_retrain",
    ),
    "a share not widened": (replaced(attack.metrics.t_intervals, "quantile", normal_for_student), "weak", 3, "recall"),
    "a share over rows": (
        replaced(attack.metrics.t_intervals.Shares, "variance", rows_taken_for_independent),
        "weak",
        3,
        "recall",
    ),
    "F1 over rows": (
        replaced(attack.metrics.t_intervals.Shares, "variance", rows_taken_for_independent),
        "weak",
        3,
        "f1",
    ),
    "the other side forgotten": (
        replaced(attack.metrics.evaluation, "combined_interval", one_side_certain),
        "weak",
        5,
        "precision",
    ),
    "a rate's threshold taken for certain": (
        replaced(attack.metrics.evaluation, "beyond_interval", threshold_certain),
        "weak",
        5,
        "tpr_at_fpr_0.01",
    ),
    "a rate bounded by what is not seen": (
        replaced(attack.metrics.evaluation, "beyond_interval", bootstrap_alone),
        "heavy-strong",
        5,
        "tpr_at_fpr_0.001",
    ),
    "a floor taken for certain": (
        replaced(attack.metrics.tiny, "beyond_interval", threshold_certain),
        "weak",
        (25, 5),
        "tiny_scores",
    ),
    "nothing seen taken for nothing": (
        replaced(attack.metrics.tiny, "beyond_interval", bootstrap_alone),
        "heavy-strong",
        5,
        "tiny_scores",
    ),
    "models not resampled": (
        replaced(attack.metrics.tiny, "resampled_weights", of_these_models_only),
        "weak",
        (25, 5),
        "tiny_scores",
    ),
}


@pytest.mark.medium
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_interval_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, case, models, name = BROKEN[what]
    members, others = models if isinstance(models, tuple) else (models, models)
    plant(monkeypatch)
    repetitions, samples = (8, 60) if what == "areas over rows" else (60, 200)  # to bootstrap every row takes its time
    misses = 0
    for holds in tries(case, members, repetitions, samples, others):
        misses += not holds[name]
        if (repetitions - misses) / repetitions < LEAST:  # whatever the others hold
            return
    pytest.fail(f"{misses} of {repetitions} intervals miss the truth: not found")


@pytest.mark.medium
def test_the_truth_is_that_of_very_many_models() -> None:
    """By the closed form where there is one, by quadrature in the far tail, and by 40,000 models a side."""
    module = bench()
    of = module.Population(0.8, 20, scale=0.0)
    spread = math.sqrt(2.0 * (of.spread**2 + of.noise**2))
    hardness = of._hardness(20)
    pairs = [NormalDist().cdf((0.8 + a - b) / spread) for a in hardness for b in hardness]
    assert of.truth(5, 5)["auc"] == pytest.approx(np.mean(pairs), abs=1e-5)

    heavy = module.Population(0.8, 20, tails=3.0, scale=0.0)
    unit, threshold = heavy.spread / math.sqrt(3.0), heavy.threshold(0.0001)

    def density(shift: float) -> float:
        above = special.ndtr((hardness + shift - threshold) / heavy.noise).mean()
        return float(stats.t.pdf(shift / unit, 3.0) / unit * above)

    edges = (-60, -5, -1, 1, 3, 6, 20, 200, 3000)
    parts = [integrate.quad(density, low, high, limit=200)[0] for low, high in itertools.pairwise(edges)]
    assert sum(parts) == pytest.approx(0.0001, rel=0.01)

    generator = np.random.default_rng(0)
    for case in ("weak", "heavy-strong"):
        of = module.population(case, 20)
        members, others = (of.draw(generator, 40_000, side).scores for side in (True, False))
        truth = of.truth(4, 4)
        hits, alarms = (members >= of.tuned).mean(), (others >= of.tuned).mean()
        found = {"auc": auc(np.repeat([1, 0], len(members)), np.concatenate([members, others]))}
        found |= {"recall": hits, "balanced_accuracy": (hits + 1.0 - alarms) / 2.0, "precision": hits / (hits + alarms)}
        found |= {"f1": 2.0 * hits / (hits + alarms + 1.0), "error_7": 100.0 * (members < of.cut(0.07)).mean()}
        found["tpr_at_fpr_0.01"] = (members > np.quantile(others, 0.99)).mean()
        assert {name: truth[name] for name in found} == pytest.approx(found, rel=0.05)
        assert truth["auc_minus_retrain"] == truth["auc"] - 0.5
        assert truth["tiny_scores"] == pytest.approx((members < np.quantile(others, 0.05)).mean(), rel=0.05, abs=3e-4)
        assert truth["error_0.5"] == pytest.approx(100.0 * (members < of.cut(0.005)).mean(), rel=0.2)
    assert of.truth(4, 1)["precision"] == pytest.approx(4 * hits / (4 * hits + alarms), rel=0.05)
