"""Places in a comparison of methods, with what chance allows.

Two methods are told apart only by a test. All tests of a table are corrected together after Holm,
so in 95 % of tables no two equal methods are told apart. A place is an interval: from one more than
the number of methods that are surely better, to the number that are not surely worse.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..library import load_special
from .measure import Measure
from .students import added, holm

LEVEL = 0.05  # of false calls in a whole table
Pair = tuple[str, str]


@dataclass(frozen=True)
class Contender:
    """A method in a comparison.

    **Arguments:**

    - `name`: of the method. `group`: only methods of one group are compared.
    - `measure`: what it is ranked by. With `by_model`, a mean over models.
    """

    name: str
    group: str
    measure: Measure


@dataclass(frozen=True)
class Compared:
    """Whether one of two methods is nearer to Retrain. `better`: which one the numbers favour.
    `p`: how often chance favours one of two equally near methods as clearly."""

    better: str
    worse: str
    p: float


@dataclass(frozen=True)
class Call:
    """A pair that was told apart: `better` is nearer. `adjusted`: the p-value after Holm. `look`:
    the look at which it was called, from 1."""

    better: str
    worse: str
    adjusted: float
    look: int = 1


@dataclass(frozen=True)
class Place:
    """Where a method stands: `low` to `high`, 1 being the best. `low` is what the table prints, so
    methods that cannot be told apart share it."""

    low: int
    high: int
    of: int


def nearer(first: Contender, second: Contender, reference: Measure) -> Compared:
    """Returns the test of which mean is nearer to the mean of `reference`.

    With a and b for the two distances to Retrain, with sign, |a| < |b| exactly where b − a and
    b + a have the same sign. Both must differ from 0, each by its own t-test, so the larger of the
    two p-values is valid (Berger, Technometrics 24, 1982). In b − a Retrain cancels, and models
    that were unlearned from the same original are compared with each other. In b + a Retrain counts
    twice.

    Without values by model, or with fewer than two models in common, the p-value is 1.
    """
    mine, theirs = first.measure.by_model, second.measure.by_model
    common = [name for name in mine if name in theirs]
    retrained = np.asarray(list(reference.by_model.values()), dtype=np.float64)
    if len(common) < 2 or len(retrained) < 2:
        return Compared(first.name, second.name, 1.0)
    a = np.asarray([mine[name] for name in common], dtype=np.float64)
    b = np.asarray([theirs[name] for name in common], dtype=np.float64)
    apart = _one_sample(b - a)
    together = _two_samples(a + b, 2.0 * retrained)
    sign = apart.mean * together.mean
    better, worse = (first, second) if sign >= 0.0 else (second, first)
    return Compared(better.name, worse.name, max(apart.p, together.p))


def smaller(first: Contender, second: Contender) -> Compared:
    """Returns the test of which of two distances is smaller, from their intervals.

    For numbers that are distances already, such as KLoM. Both are taken as independent and each
    interval as 1.96 standard errors; where they share models the p-value is too large rather than
    too small.
    """
    mine, theirs = first.measure, second.measure
    if mine.value is None or theirs.value is None or mine.interval is None or theirs.interval is None:
        return Compared(first.name, second.name, 1.0)
    low, high = (first, second) if mine.value <= theirs.value else (second, first)
    above = float(low.measure.high or 0.0) - float(low.measure.value or 0.0)
    below = float(high.measure.value or 0.0) - float(high.measure.low or 0.0)
    gap, reach = abs(mine.value - theirs.value), math.hypot(above, below)
    if gap == 0.0 or reach == 0.0:
        return Compared(low.name, high.name, 1.0)
    normal = load_special().ndtr(-1.959963984540054 * gap / reach)
    return Compared(low.name, high.name, float(2.0 * normal))


@dataclass(frozen=True)
class Standing:
    """Calls so far, and what they say of every contender."""

    contenders: tuple[Contender, ...]
    calls: tuple[Call, ...] = ()
    tests: Mapping[Pair, Compared] = field(default_factory=dict)

    def place(self, name: str) -> Place:
        """Returns the place of a contender in its group."""
        group = next(contender.group for contender in self.contenders if contender.name == name)
        members = [contender.name for contender in self.contenders if contender.group == group]
        better = sum(call.worse == name for call in self.calls if call.better in members)
        worse = sum(call.better == name for call in self.calls if call.worse in members)
        return Place(1 + better, len(members) - worse, len(members))

    def among(self, names: Collection[str]) -> Standing:
        """Returns what is known of some contenders alone. Calls stay as they were corrected, over
        all of them."""
        kept = tuple(contender for contender in self.contenders if contender.name in names)
        calls = tuple(call for call in self.calls if call.better in names and call.worse in names)
        return Standing(kept, calls, self.tests)

    def settled(self, name: str) -> bool:
        """Whether the place of a contender cannot change any more: each of its pairs is called."""
        place = self.place(name)
        return place.low == place.high

    @property
    def winners(self) -> dict[str, str]:
        """Returns for each group the method that is nearer than every other, of groups that have
        one."""
        found = {}
        for contender in self.contenders:
            place = self.place(contender.name)
            if place.of > 1 and place.high == 1:
                found[contender.group] = contender.name
        return found


def pairs_of(contenders: Sequence[Contender]) -> list[Pair]:
    """Returns the pairs that are compared: each two of a group."""
    return [
        (first.name, second.name)
        for index, first in enumerate(contenders)
        for second in contenders[index + 1 :]
        if first.group == second.group
    ]


def look(
    contenders: Sequence[Contender],
    reference: Measure | None,
    *,
    earlier: Sequence[Call] = (),
    number: int = 1,
    looks: int = 1,
    level: float = LEVEL,
) -> Standing:
    """Returns what is known after one more look at the data.

    Each look makes a false call in at most `level`/`looks` of leagues, so all looks together in at
    most `level` of them. That holds whatever was stopped in between: only true calls come before
    the first false one. At that moment all pairs of equals are still left. Holm divides by at least
    their number.

    **Arguments:**

    - `reference`: what methods are compared with; None where the numbers are distances already.
    - `earlier`: calls of earlier looks. They stand.
    - `number`: of this look, from 1.
    """
    by_name = {contender.name: contender for contender in contenders}
    called = {frozenset((call.better, call.worse)) for call in earlier}
    left = [pair for pair in pairs_of(contenders) if frozenset(pair) not in called]
    tests = {}
    for first, second in left:
        sides = by_name[first], by_name[second]
        tests[first, second] = smaller(*sides) if reference is None else nearer(*sides, reference)
    adjusted = holm([tests[pair].p for pair in left])
    fresh = [
        Call(tests[pair].better, tests[pair].worse, value, number)
        for pair, value in zip(left, adjusted, strict=True)
        if value <= level / looks
    ]
    return Standing(tuple(contenders), (*earlier, *fresh), tests)


@dataclass(frozen=True)
class _Mean:
    mean: float
    p: float


def _one_sample(values: np.ndarray) -> _Mean:
    """Returns the mean and the two-sided p-value of Student's t against 0."""
    return _t(float(values.mean()), float(values.var(ddof=1)) / len(values), len(values) - 1.0)


def _two_samples(first: np.ndarray, second: np.ndarray) -> _Mean:
    """Returns the difference of means and Welch's two-sided p-value."""
    spread = added([(float(side.var(ddof=1)) / len(side), len(side) - 1) for side in (first, second)])
    return _t(float(first.mean() - second.mean()), *spread)


def _t(mean: float, variance: float, freedom: float) -> _Mean:
    if mean == 0.0:
        return _Mean(mean, 1.0)
    if variance <= 0.0:
        return _Mean(mean, 0.0)
    p = 2.0 * load_special().stdtr(freedom, -abs(mean) / math.sqrt(variance))
    return _Mean(mean, float(p))
