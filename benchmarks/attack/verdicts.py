"""How often each verdict is given to outputs with a planted truth, by simulation.

    python benchmarks/attack/verdicts.py [--cells 8x40,25x200] [--world plain] [--repetitions 300]

`8x40` means 8 models a side and 40 forget samples. φ of a sample is its hardness, plus noise, plus
a shift that all samples of a model share. Models trained on a sample add its memory, which is
log-normal over samples. Four attacks score φ: a threshold, LiRA, RMIA with unseen z, and U-LiRA.
The verdict is the product's own. So are traces, intervals and the areas under the curve.

Truths: `exact` is retraining. In `few in full`, 5 % of the samples keep all of their memory. In
`half and half`, half keep it and half lose it twice. `lowered` lowers forget samples and unseen
images alike. `forget lowered` lowers forget samples alone, by 60 % of their memory.

KLoM and ε can only stop *forgot*. `--gaps` measures them too, and counts each word with and without
them.

Worlds: `plain` is the base. `uneven` has twice the spread between models, and `weak` half of the
memory. `heavy` has noise of Student's t with 3 degrees of freedom. `no-unseen` has no outputs on
unseen images.

The second table compares three intervals of the leak that is left, where its truth is known. That
is 0 for exact unlearning, and 1 for other models that were never unlearned. The table gives how
often each interval misses the truth.

A cell takes 1 to 3 minutes on one core. `--output FILE` adds the counts to those of earlier calls
with other seeds (`--first`); the result does not depend on how repetitions are divided.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from scipy.special import expit

from attack.distances.base import DIVERGENCES
from attack.distances.chance import Gap, gap
from attack.metrics.bootstrap import expanded_interval, resampled_weights
from attack.metrics.evidence import AttackEvidence, Confidence, Evidence, GapLeft, UnseenEvidence, bent_yardstick
from attack.metrics.leak import Sides
from attack.metrics.roc import auc_matrix
from attack.metrics.traces import traces
from attack.metrics.verdict import VerdictWord, judge

Z = 100  # unseen images that calibrate RMIA; as many more are compared with forget samples
HARDNESS, NOISE = 2.0, 1.0
WORDS = get_args(VerdictWord)


@dataclass(frozen=True)
class World:
    """What models are like. `memory`: mean rise of φ by training. `spread`: of models' common
    shifts."""

    memory: float = 2.0
    spread: float = 0.15
    freedom: float | None = None
    unseen: bool = True


WORLDS = {
    "plain": World(),
    "uneven": World(spread=0.3),
    "weak": World(memory=1.0),
    "heavy": World(freedom=3.0),
    "no-unseen": World(unseen=False),
}


@dataclass(frozen=True)
class Models:
    """φ of some models on forget samples `(models, samples)` and on unseen images `(models, 2
    Z)`."""

    forget: np.ndarray
    unseen: np.ndarray

    @property
    def confidence(self) -> Confidence:
        return Confidence(self.forget.mean(axis=1), self.unseen[:, Z:].mean(axis=1))


class Experiment:
    """One draw of originals, retrained models and attackers, which all truths of a repetition
    share."""

    def __init__(self, world: World, models: int, samples: int, generator: np.random.Generator, gaps: bool = False):
        self.gaps = gaps
        self.world, self.models, self.samples, self.generator = world, models, samples, generator
        self.fitting = max(16, models)  # models that attackers are fitted on, a side
        self.hardness = generator.normal(1.0, HARDNESS, samples)
        self.unseen_hardness = generator.normal(1.0, HARDNESS, 2 * Z)
        self.memory = world.memory * generator.lognormal(-0.125, 0.5, samples)
        self.fit_originals, self.fit_retrained = self.draw(1.0, self.fitting), self.draw(0.0, self.fitting)
        self.originals, self.negatives, self.retrain = self.draw(1.0), self.draw(0.0), self.draw(0.0)
        self.retrained = np.concatenate([self.fit_retrained.forget, self.negatives.forget])
        self.negative_scores = self.scores(self.negatives)
        self.before, self.reference = (self.areas(group) for group in (self.originals, self.retrain))
        self.u_before = self.u_areas(self.fit_originals, self.originals), self.u_areas(self.fit_originals, self.retrain)

    def draw(self, kept: float | np.ndarray, models: int | None = None, lowered: float = 0.0) -> Models:
        """Returns models that kept a share of each sample's memory, broadcast to `(models,
        samples)`."""
        count = models or self.models
        shift = self.generator.normal(0.0, self.world.spread, (count, 1)) - lowered
        forget = self.hardness + shift + self._noise(count, self.samples) + kept * self.memory
        return Models(forget, self.unseen_hardness + shift + self._noise(count, 2 * Z))

    def _noise(self, models: int, samples: int) -> np.ndarray:
        freedom = self.world.freedom
        if freedom is None:
            return NOISE * self.generator.normal(size=(models, samples))
        return NOISE * self.generator.standard_t(freedom, (models, samples)) * math.sqrt((freedom - 2.0) / freedom)

    def scores(self, group: Models) -> dict[str, np.ndarray]:
        ratio, others = expit(group.forget) / self._prior[0], np.sort(expit(group.unseen[:, :Z]) / self._prior[1])
        beaten = [np.searchsorted(z, mine, side="right") / Z for z, mine in zip(others, ratio, strict=True)]
        lira = _log_ratio(group.forget, self.fit_originals.forget, self.fit_retrained.forget)
        return {"threshold": group.forget, "lira": lira, "rmia": np.stack(beaten)}

    @cached_property
    def _prior(self) -> list[np.ndarray]:
        sides = (self.fit_originals, self.fit_retrained)
        forget, unseen = [s.forget for s in sides], [s.unseen[:, :Z] for s in sides]
        return [0.5 * sum(expit(phi).mean(axis=0) for phi in part) for part in (forget, unseen)]

    def areas(self, group: Models) -> dict[str, np.ndarray]:
        return {
            name: auc_matrix(list(own), list(self.negative_scores[name])) for name, own in self.scores(group).items()
        }

    def u_areas(self, fit: Models, group: Models) -> np.ndarray:
        """Returns the areas of U-LiRA, fitted on a method's own models."""
        sides = (_log_ratio(s.forget, fit.forget, self.fit_retrained.forget) for s in (group, self.negatives))
        return auc_matrix(*(list(side) for side in sides))

    def evidence(self, test: Models, fit: Models, parents: np.ndarray | None) -> Evidence:
        found = []
        for name, areas in self.areas(test).items():
            if name == "rmia" and not self.world.unseen:
                continue  # without z it decides nothing
            found.append(AttackEvidence(name, Sides(areas, self.reference[name], self.before[name], parents=parents)))
        bent = bent_yardstick(found)
        own = Sides(self.u_areas(fit, test), self.u_areas(fit, self.retrain), *self.u_before, parents)
        found.append(AttackEvidence("u_lira", own, directed=False))
        unseen = UnseenEvidence(test.confidence, self.retrain.confidence, self.originals.confidence, parents)
        seed = int(self.generator.integers(2**31))
        constant = bool((np.ptp(test.forget, axis=1) == 0.0).all())
        left = tuple(GapLeft(name, *self.gap(name, test).left(before)) for name, before in self.gaps_before.items())
        single = traces(test.forget, self.retrained, seed=seed, draws=499)
        return Evidence(found, single, unseen if self.world.unseen else None, constant, bent=bent, gaps=left)

    @cached_property
    def gaps_before(self) -> dict[str, Gap]:
        """The gaps before unlearning, of the divergences that see them."""
        if not self.gaps:
            return {}
        found = {name: self.gap(name, self.originals) for name in DIVERGENCES}
        return {name: before for name, before in found.items() if before.sees}

    def gap(self, name: str, test: Models) -> Gap:
        found = gap(DIVERGENCES[name](), test.forget, self.negatives.forget)
        assert found is not None
        return found


def _log_ratio(phi: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Returns the log-likelihood ratio of Gaussians with a mean for each sample and one variance a
    side."""

    def density(side: np.ndarray) -> np.ndarray:
        variance = side.var(axis=0, ddof=1).mean()
        found: np.ndarray = -0.5 * (np.log(variance) + (phi - side.mean(axis=0)) ** 2 / variance)
        return found

    return density(inside) - density(outside)


def _few(e: Experiment, n: int) -> Models:
    kept = np.zeros(e.samples)
    kept[: max(1, round(0.05 * e.samples))] = 1.0
    return e.draw(kept, n)


def _one_in_eight(e: Experiment, n: int) -> Models:
    return e.draw((np.arange(n) < max(1, n // 8)).astype(float)[:, None], n)


def _constant(e: Experiment, n: int) -> Models:
    value = -math.log(9.0)  # ten classes, all equally likely
    return Models(np.full((n, e.samples), value), np.full((n, 2 * Z), value))


TRUTHS = {
    "exact": lambda e, n: e.draw(0.0, n),
    "few in full": _few,
    "half and half": lambda e, n: e.draw(np.where(np.arange(e.samples) < e.samples // 2, 1.0, -1.0), n),
    "one model in eight": _one_in_eight,
    "20 % left": lambda e, n: e.draw(0.2, n),
    "40 % left": lambda e, n: e.draw(0.4, n),
    "lowered": lambda e, n: e.draw(0.0, n, 2.0),
    "forget lowered": lambda e, n: e.draw(-0.6, n),
    "constant": _constant,
    "nothing done": None,
}


def repetition(
    world: World, models: int, samples: int, seed: int, gaps: bool = False
) -> tuple[dict[str, str], dict[str, dict[str, bool]]]:
    """Returns the word for each truth, and which intervals missed a known truth.

    **Arguments:** `gaps`: KLoM and ε are measured too, and the words that they stop are told apart.
    """
    experiment = Experiment(world, models, samples, np.random.default_rng([seed, models, samples]), gaps)
    words: dict[str, str] = {}
    missed: dict[str, dict[str, bool]] = {}
    for name, planted in TRUTHS.items():
        if planted is None:  # the models under test are the originals themselves
            test, fit, parents = experiment.originals, experiment.fit_originals, np.arange(models)
        else:
            test, fit, parents = planted(experiment, models), planted(experiment, experiment.fitting), None
        evidence = experiment.evidence(test, fit, parents)
        words[name] = judge(evidence).word
        if gaps:
            words[f"{name}, no divergences"] = judge(replace(evidence, gaps=())).word
        if name == "exact":
            missed["exact"] = _missed(evidence.attacks, 0.0, seed)
    fresh = experiment.evidence(experiment.draw(1.0), experiment.fit_originals, None)
    missed["fresh originals"] = _missed(fresh.attacks, 1.0, seed)
    return words, missed


def _missed(attacks: Sequence[AttackEvidence], truth: float, seed: int) -> dict[str, bool]:
    """Returns which 95 % intervals do not hold the truth, by kind and attack."""
    found = {}
    for attack in attacks:
        intervals = {
            "fieller": attack.ratio.interval(),
            "delta": _delta(attack),
            "bootstrap": _bootstrap(attack.sides, seed),
        }
        for kind, bounds in intervals.items():
            if bounds is not None:
                found[f"{kind}/{attack.attack}"] = not bounds[0] <= truth <= bounds[1]
    return found


def _delta(attack: AttackEvidence) -> tuple[float, float]:
    """Returns the interval of the ratio by its linear approximation and the normal distribution."""
    ratio = attack.ratio
    error = ratio._spread(1.0, -ratio.value)[0] / abs(ratio.denominator)
    return ratio.value - 1.96 * error, ratio.value + 1.96 * error


def _bootstrap(sides: Sides, seed: int, draws: int = 400) -> tuple[float, float]:
    """Returns the expanded percentile interval, models of all sides resampled."""
    generator = np.random.default_rng(seed)
    theirs = sides.retrain if sides.retrain_before is None else sides.retrain_before
    columns = resampled_weights(sides.method.shape[1], draws, generator) / sides.method.shape[1]
    rows = [resampled_weights(len(m), draws, generator) / len(m) for m in (sides.method, sides.retrain, sides.before)]
    groups = ((sides.method, rows[0]), (sides.retrain, rows[1]), (sides.before, rows[2]), (theirs, rows[1]))
    method, retrain, before, other = (((weights @ matrix) * columns).sum(axis=1) for matrix, weights in groups)
    low, high = expanded_interval((method - retrain) / (before - other), sides.models)
    return low, high


def added(before: dict[str, Any] | None, found: dict[str, Any]) -> dict[str, Any]:
    """Returns the counts of two calls together."""
    if before is None:
        return found
    words = {t: dict(Counter(before["words"].get(t, {})) + Counter(n)) for t, n in found["words"].items()}
    both = {
        name: [a + b for a, b in zip(pair, before["missed"][name], strict=True)]
        for name, pair in found["missed"].items()
    }
    return {"words": words, "missed": both}


def table(words: dict[str, dict[str, int]]) -> str:
    """Returns how often each word was said, as a Markdown table in percent."""
    lines = ["| truth | " + " | ".join(WORDS) + " |", "|---|" + "---:|" * len(WORDS)]
    for truth, counts in words.items():
        total = sum(counts.values())
        lines.append(f"| {truth} | " + " | ".join(f"{100.0 * counts.get(w, 0) / total:.1f}" for w in WORDS) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default="8x40,8x200,25x40,25x200")
    parser.add_argument("--world", choices=list(WORLDS), default="plain")
    parser.add_argument("--repetitions", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="seed of the first repetition")
    parser.add_argument("--gaps", action="store_true", help="with KLoM and ε, which takes about 20 times as long")
    parser.add_argument("--output", type=Path, help="adds the counts to this JSON file")
    options = parser.parse_args()
    for cell in options.cells.split(","):
        models, samples = (int(part) for part in cell.split("x"))
        started, counts, misses = time.process_time(), defaultdict[str, Counter[str]](Counter), Counter[str]()
        tried: Counter[str] = Counter()
        for seed in range(options.first, options.first + options.repetitions):
            words, missed = repetition(WORLDS[options.world], models, samples, seed, options.gaps)
            for truth, word in words.items():
                counts[truth][word] += 1
            for truth, kinds in missed.items():
                tried.update(f"{truth}/{kind}" for kind in kinds)
                misses.update(f"{truth}/{kind}" for kind, wrong in kinds.items() if wrong)
        found: dict[str, Any] = {
            "words": counts,
            "missed": {name: [misses[name], count] for name, count in sorted(tried.items())},
        }
        if options.output is not None:
            kept = json.loads(options.output.read_text()) if options.output.exists() else {}
            name = f"{options.world}/{cell}{'/gaps' if options.gaps else ''}"
            found = kept[name] = added(kept.get(name), found)
            options.output.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
        print(f"\n{cell}, {options.world}, {time.process_time() - started:.0f} s\n\n{table(found['words'])}\n")
        print("95 % intervals that missed the truth, %:")
        for name, (misses_, count) in found["missed"].items():
            print(f"  {name:40s} {100.0 * misses_ / count:5.1f}  of {count}")


if __name__ == "__main__":
    main()
