"""How often the 95 % intervals of an attack's metrics hold the truth, by simulation, beside those of a plain bootstrap.

    python benchmarks/attack/coverage.py [--sides 3,5,10,25] [--samples 300] [--cases none,weak,…] [--repetitions 400]

Scores as attacks give them: a sample has a hardness that all models share, a model a shift and a scale that all its samples share,
and each output noise of its own. Within a model scores have a deviation of 1; shifts have one of 0.3, as in the demo's most uneven
methods, and scales differ by 10 %. Cases: `none` (AUC 0.5), `weak` (0.6), `strong` (0.9), and `heavy-weak` and `heavy-strong` with
shifts of Student's t with 3 degrees of freedom, of the same deviation: a few models that stand out far. The truth is that of
infinitely many models on the same samples, by numerical integration.

Each repetition draws models under test, fresh retrained ones (the Retrain row) and retrained ones as negatives, and takes every
interval from the code that writes results. Errors are of samples whose score falls below a cut. `plain` is the percentile
bootstrap over models, widened for few of them (Hesterberg), of everything, the floor of tiny scores taken for certain.

`--sides 25x5` means 25 models under test and 5 retrained. Coverage is in percent, with its own standard error; width is the mean;
`above` counts intervals that lie above the truth altogether; `given` is how often there was an interval. The last line is JSON;
`--output FILE` keeps it, with results of earlier calls that were written there. About 12 minutes on two cores for what
docs/results/attack shows.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import ndtr, ndtri

from attack.metrics.bootstrap import expanded_interval, resampled_tpr, resampled_weights
from attack.metrics.evaluation import LOW_FPRS, Areas, Scores, evaluate, paired_difference
from attack.metrics.tiny import TINY, tiny_scores
from orchestrator.experiments.results import error_measure

CHUNK = 20
DRAWS = 2000  # bootstrap samples of the plain way, as many as ours takes
ORIGINALS = 1.3  # effect that the attacker's threshold was tuned on: models never unlearned
ERRORS = {"error_7": 0.07, "error_0.5": 0.005}
TPRS = {f"tpr_at_fpr_{rate:g}": rate for rate in LOW_FPRS}
Intervals = dict[str, list[float]]


@dataclass(frozen=True)
class Population:
    """Infinitely many models, retrained ones and ones under test, whose scores are higher by `effect`.

    **Arguments:** `samples`: of each model. `tails`: degrees of freedom of Student's t for shifts; None: they are normal.
    """

    effect: float
    samples: int
    tails: float | None = None
    spread: float = 0.3
    scale: float = 0.1
    hardness: float = math.sqrt(0.5)
    noise: float = math.sqrt(0.5)

    def draw(self, generator: np.random.Generator, models: int, under_test: bool) -> Scores:
        """Returns scores of `models` of them on all samples."""
        shifts = self._shifts(generator.random(models))
        scales = self.noise * np.exp(self.scale * generator.normal(size=models))
        noise = scales[:, None] * generator.normal(size=(models, self.samples))
        values = self._hardness(self.samples) + shifts[:, None] + noise + self.effect * under_test
        ids, samples = np.divmod(np.arange(values.size), self.samples)
        return Scores(values.ravel(), ids, samples)

    def _hardness(self, count: int) -> np.ndarray:
        return self.hardness * ndtri((np.arange(count) + 0.5) / count)

    def _shifts(self, levels: np.ndarray) -> np.ndarray:
        if self.tails is None:
            return self.spread * ndtri(levels)
        return self.spread * stats.t.ppf(levels, self.tails) / math.sqrt(self.tails / (self.tails - 2.0))

    @cached_property
    def _tails(self) -> tuple[np.ndarray, np.ndarray]:
        """A grid of scores, and the share of retrained models' scores above each, integrated over models and samples."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(15)
        apart = np.linspace(-16.0, 16.0, 16001)
        inner = np.zeros_like(apart)
        for node, weight in zip(nodes, weights / weights.sum(), strict=True):
            for hard in self._hardness(min(self.samples, 400)):
                inner += weight * ndtr((hard - apart) / (self.noise * math.exp(self.scale * node)))
        inner /= min(self.samples, 400)
        # Levels are dense at both ends, since shifts there decide rates of one in ten thousand.
        half = np.concatenate([[0.0], np.geomspace(1e-9, 1e-3, 500)[:-1], np.linspace(1e-3, 0.5, 1000)])
        edges = np.concatenate([half, 1.0 - half[-2::-1]])
        shifts, chances = self._shifts((edges[1:] + edges[:-1]) / 2.0), np.diff(edges)
        scores = np.linspace(-12.0, 14.0, 2601)
        above = np.asarray([chances @ np.interp(x - shifts, apart, inner) for x in scores])
        return scores, above

    def above(self, threshold: float, under_test: bool) -> float:
        """Returns the share of scores above a threshold."""
        scores, above = self._tails
        return float(np.interp(threshold - self.effect * under_test, scores, above))

    def threshold(self, rate: float) -> float:
        """Returns the score that a share `rate` of retrained models' scores lies above."""
        scores, above = self._tails
        return float(np.interp(-math.log(rate), -np.log(np.maximum(above, 1e-300)), scores))

    @cached_property
    def tuned(self) -> float:
        """The threshold with the best F1 between models that were never unlearned and retrained ones."""
        scores, above = self._tails
        recall = np.interp(scores - ORIGINALS, scores, above)
        return float(scores[np.argmax(2.0 * recall / (recall + above + 1.0))])

    def truth(self, members: int, retrained: int) -> dict[str, float]:
        """Returns every metric's true value; precision and F1 depend on how many models there are a side."""
        scores, above = self._tails
        area = float(np.trapezoid(np.interp(scores - self.effect, scores, above), -above))
        recall, alarms = (self.above(self.tuned, side) for side in (True, False))
        balance = retrained / members
        found = {
            "auc": area,
            "auc_minus_retrain": max(0.0, area - 0.5),
            "balanced_accuracy": (recall + 1.0 - alarms) / 2.0,
        }
        found |= {"precision": recall / (recall + balance * alarms), "recall": recall}
        found["f1"] = 2.0 * recall / (recall + balance * alarms + 1.0)
        found |= {name: self.above(self.threshold(rate), True) for name, rate in TPRS.items()}
        found["tiny_scores"] = 1.0 - self.above(self.threshold(1.0 - TINY), True)
        return found | {name: 100.0 * share for name, share in ERRORS.items()}

    def cut(self, share: float) -> float:
        """Returns the score below which a share of the scores of models under test lies."""
        return self.threshold(1.0 - share) + self.effect


CASES: dict[str, dict[str, Any]] = {
    "none": {"effect": 0.0},
    "weak": {"effect": 0.37},
    "strong": {"effect": 1.88},
    "heavy-weak": {"effect": 0.37, "tails": 3.0},
    "heavy-strong": {"effect": 1.88, "tails": 3.0},
}


@dataclass(frozen=True)
class Cell:
    """One setting: a case, models a side, samples a model."""

    case: str
    members: int
    retrained: int
    samples: int

    def __str__(self) -> str:
        sides = str(self.members) if self.members == self.retrained else f"{self.members}x{self.retrained}"
        return f"{self.case}, {sides} models a side, {self.samples:,} samples"


@lru_cache(maxsize=8)
def population(case: str, samples: int) -> Population:
    return Population(samples=samples, **CASES[case])


@dataclass(frozen=True)
class Drawn:
    """One repetition: models under test, a Retrain row's, retrained ones as negatives."""

    of: Population
    members: Scores
    fresh: Scores
    negatives: Scores

    @classmethod
    def draw(cls, cell: Cell, generator: np.random.Generator) -> Drawn:
        of = population(cell.case, cell.samples)
        members, fresh = (of.draw(generator, cell.members, under_test) for under_test in (True, False))
        return cls(of, members, fresh, of.draw(generator, cell.retrained, False))

    @cached_property
    def wrong(self) -> dict[str, np.ndarray]:
        """Errors of each model under test in percent, of two kinds of sample."""
        matrix = self.members.scores.reshape(-1, self.of.samples)
        return {name: 100.0 * (matrix < self.of.cut(share)).mean(axis=1) for name, share in ERRORS.items()}

    def ours(self, seed: int) -> Intervals:
        """Returns the intervals that results would have."""
        found = evaluate(self.members, self.negatives, threshold=self.of.tuned, seed=seed)
        models, others = self.negatives.by_model()
        apart = paired_difference(found, Areas.of(self.fresh.by_model()[1], others, models), seed=seed)[1]
        tiny = tiny_scores(self.members, self.negatives, seed)[1]
        assert apart is not None
        assert tiny is not None
        errors: Intervals = {}
        for name, values in self.wrong.items():
            by_model = {str(model): value for model, value in enumerate(values.tolist())}
            interval = error_measure(by_model, self.of.samples).interval
            assert interval is not None
            errors[name] = list(interval)
        return found.ci | {"auc_minus_retrain": apart, "tiny_scores": tiny} | errors

    def plain(self, generator: np.random.Generator) -> Intervals:
        """Returns expanded percentile intervals of what results do not bootstrap, or not like this."""
        members, others = self.members.by_model()[1], self.negatives.by_model()[1]
        rows, columns = (resampled_weights(len(side), DRAWS, generator) for side in (members, others))
        shares = [np.asarray([(m >= self.of.tuned).mean() for m in side]) for side in (members, others)]
        recall, alarms = rows @ shares[0] / len(members), columns @ shares[1] / len(others)
        balance = len(others) / len(members)
        found = {"balanced_accuracy": (recall + 1.0 - alarms) / 2.0, "recall": recall}
        found["f1"] = 2.0 * recall / (recall + balance * alarms + 1.0)
        if (recall + alarms > 0.0).all():
            found["precision"] = recall / (recall + balance * alarms)
        rates = [name for name, rate in TPRS.items() if rate * len(self.negatives.scores) >= 1.0]
        if rates:
            values = resampled_tpr(members, others, rows, columns, [TPRS[name] for name in rates])
            found |= dict(zip(rates, values, strict=True))
        floor = np.quantile(self.negatives.scores, TINY)
        alone = {"tiny_scores": np.asarray([(m < floor).mean() for m in members]), **self.wrong}
        fewest = min(len(members), len(others))
        result = {name: expanded_interval(values, fewest) for name, values in found.items()}
        means = {name: rows @ values / len(members) for name, values in alone.items()}
        return result | {name: expanded_interval(values, len(members)) for name, values in means.items()}


def chunk(cell: Cell, first: int, count: int) -> list[tuple[str, str, float, float]]:
    """Returns (`ours` or `plain`, metric, low, high) of repetitions from `first` on; each has a seed of its own."""
    found = []
    for repetition in range(first, first + count):
        seed = [repetition, list(CASES).index(cell.case), cell.members, cell.retrained, cell.samples]
        generator = np.random.default_rng(seed)
        drawn = Drawn.draw(cell, generator)
        for way, each in (("ours", drawn.ours(repetition)), ("plain", drawn.plain(generator))):
            found += [(way, name, low, high) for name, (low, high) in each.items()]
    return found


def summary(cell: Cell, drawn: list[tuple[str, str, float, float]], repetitions: int) -> dict[str, Any]:
    """Returns coverage and width of each metric in a cell."""
    metrics: dict[str, Any] = {}
    for name, truth in population(cell.case, cell.samples).truth(cell.members, cell.retrained).items():
        entry: dict[str, Any] = {"truth": round(truth, 6)}
        for way in ("ours", "plain"):
            bounds = np.asarray([(low, high) for w, n, low, high in drawn if (w, n) == (way, name)])
            if len(bounds):
                held = int(((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).sum())
                share = (held + 2.0) / (len(bounds) + 4.0)  # Agresti and Coull: no error of 0 where all hold
                entry[way] = {
                    "coverage": round(100.0 * held / len(bounds), 2),
                    "error": round(100.0 * math.sqrt(share * (1.0 - share) / len(bounds)), 2),
                    "above": round(100.0 * float((bounds[:, 0] > truth).mean()), 2),
                    "width": float(f"{np.diff(bounds).mean():.4g}"),
                    "given": round(len(bounds) / repetitions, 4),
                }
        if "ours" in entry:
            metrics[name] = entry
    sides = {"members": cell.members, "retrained": cell.retrained, "samples": cell.samples}
    return {"case": cell.case, **sides, "repetitions": repetitions, "metrics": metrics}


def show(cell: Cell, found: dict[str, Any]) -> None:
    """Prints a cell, ours beside the plain way."""
    print(f"\n{cell}\n  {'':20s} {'truth':>8s}  {'ours':>12s} {'width':>8s}  {'plain':>12s} {'width':>8s}", flush=True)
    for name, entry in found["metrics"].items():
        told = [
            f"{entry[way]['coverage']:6.1f} ± {entry[way]['error']:3.1f} {entry[way]['width']:8.3g}"
            if way in entry
            else f"{'the same':>21s}"
            for way in ("ours", "plain")
        ]
        print(f"  {name:20s} {entry['truth']:8.4g}  {told[0]}  {told[1]}", flush=True)


def cells(args: argparse.Namespace) -> list[Cell]:
    """Returns the settings that were asked for, cases together."""
    sides = [[int(n) for n in text.split("x")] for text in args.sides.split(",")]
    samples = [int(text) for text in args.samples.split(",")]
    return [Cell(case, m[0], m[-1], s) for case in args.cases.split(",") for m in sides for s in samples]


def simulate(wanted: list[Cell], repetitions: int, processes: int) -> list[dict[str, Any]]:
    """Returns the summary of each cell; prints each as it is done, and how long the rest will take."""
    # Two processes with two threads each would only be in each other's way; spawned ones read this before NumPy is loaded.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    started, last, rows_done = time.perf_counter(), time.perf_counter(), 0
    rows = {cell: (cell.members * 2 + cell.retrained) * cell.samples + 3000 for cell in wanted}  # a guess at its cost
    drawn: dict[Cell, list[tuple[str, str, float, float]]] = {cell: [] for cell in wanted}
    left = {cell: repetitions for cell in wanted}
    found: dict[Cell, dict[str, Any]] = {}
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {}
        for cell in wanted:
            for first in range(0, repetitions, CHUNK):
                count = min(CHUNK, repetitions - first)
                jobs[pool.submit(chunk, cell, first, count)] = (cell, count)
        for job in as_completed(jobs):
            cell, count = jobs[job]
            drawn[cell] += job.result()
            left[cell] -= count
            rows_done += count * rows[cell]
            if not left[cell]:
                found[cell] = summary(cell, drawn.pop(cell), repetitions)
                show(cell, found[cell])
            if time.perf_counter() - last > 10.0 or not left[cell]:
                last = time.perf_counter()
                rest = (last - started) * (repetitions * sum(rows.values()) / rows_done - 1.0)
                print(f"{len(found)} of {len(wanted)} settings, about {rest:.0f} s left", file=sys.stderr, flush=True)
    return [found[cell] for cell in wanted]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", default="3,5,10,25", help="models a side, or under test x retrained, with commas")
    parser.add_argument("--samples", default="300", help="of each model, with commas")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file that the results are added to")
    args = parser.parse_args()
    unknown = [case for case in args.cases.split(",") if case not in CASES]
    if unknown:
        parser.error(f"--cases: {unknown[0]!r} is none of {', '.join(CASES)}")
    started = time.perf_counter()
    results = simulate(cells(args), args.repetitions, args.processes)
    if args.output:
        before = json.loads(args.output.read_text()) if args.output.is_file() else []
        args.output.write_text(json.dumps([*before, *results], indent=1) + "\n")
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"benchmark": "coverage", "seconds": seconds, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
