"""Verdicts on claims, computed from intervals alone: holds, does not hold, or not measurable at
this size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from attack.metrics.chance import LEAST_MODELS, WIDEST, includes_chance, narrow
from attack.metrics.evidence import LEAST_MODELS as VERDICT_MODELS
from attack.metrics.measure import Measure

from .measure import Experiment

Word = Literal["holds", "does not hold", "not measurable at this size"]
HOLDS: Word = "holds"
FAILS: Word = "does not hold"
OPEN: Word = "not measurable at this size"


@dataclass(frozen=True)
class Verdict:
    """One of three words, and the figures that it comes from."""

    word: Word
    because: str


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper and how it is put to the test on the experiments of its item."""

    text: str
    test: Callable[[Mapping[str, Experiment]], Verdict]


def decisive(value: Measure) -> tuple[float, float] | None:
    """Returns the interval that a verdict may be built on: that of at least three models, else
    None.
    """
    return None if value.models is not None and value.models < LEAST_MODELS else value.interval


def above(what: str, value: Measure, bound: float = 0.0, digits: int = 2) -> Verdict:
    """Holds where the whole interval lies above `bound`, does not hold where it lies at or below
    it.
    """
    return _decided(what, value, f"above {bound:g}", digits, lambda low, _: low > bound, lambda _, high: high <= bound)


def below(what: str, value: Measure, bound: float = 0.0, digits: int = 2) -> Verdict:
    """Holds where the whole interval lies below `bound`, does not hold where it lies at or above
    it.
    """
    return _decided(what, value, f"below {bound:g}", digits, lambda _, high: high < bound, lambda low, _: low >= bound)


def within(what: str, value: Measure, bound: float, digits: int = 2) -> Verdict:
    """Holds where the whole interval lies in ±`bound`, does not hold where it lies outside
    altogether.
    """
    return _decided(
        what,
        value,
        f"within ±{bound:g}",
        digits,
        lambda low, high: -bound <= low and high <= bound,
        lambda low, high: low > bound or high < -bound,
    )


def chance(what: str, auc: Measure) -> Verdict:
    """Holds where the interval of an AUC holds 0.5 and is narrow enough to say so.

    As for any verdict on forgetting, five models are the least.
    """
    if not auc.known:
        return Verdict(OPEN, f"{what} was not measured")
    bounds = decisive(auc)
    if bounds is None or (auc.models is not None and auc.models < VERDICT_MODELS):
        word: Word = OPEN
    elif not includes_chance(*bounds):
        word = FAILS
    else:
        word = HOLDS if narrow(*bounds) else OPEN
    return Verdict(word, f"{what}: {auc.text(3)}, to hold 0.5 and be no wider than {WIDEST:g}")


def _decided(
    what: str,
    value: Measure,
    wanted: str,
    digits: int,
    holds: Callable[[float, float], bool],
    fails: Callable[[float, float], bool],
) -> Verdict:
    if not value.known:
        return Verdict(OPEN, f"{what} was not measured")
    bounds = decisive(value)
    word = OPEN if bounds is None else HOLDS if holds(*bounds) else FAILS if fails(*bounds) else OPEN
    return Verdict(word, f"{what}: {value.text(digits)}, to be {wanted}")


def every(verdicts: Iterable[Verdict]) -> Verdict:
    """Holds where all hold, does not hold where one does not; the reasons are those that decide."""
    return _joined(list(verdicts), decides=FAILS, otherwise=HOLDS)


def some(verdicts: Iterable[Verdict]) -> Verdict:
    """Holds where one holds, does not hold where none does; the reasons are those that decide."""
    return _joined(list(verdicts), decides=HOLDS, otherwise=FAILS)


def opposite(verdict: Verdict) -> Verdict:
    """Holds where the verdict does not, and the other way round."""
    words: dict[Word, Word] = {HOLDS: FAILS, FAILS: HOLDS, OPEN: OPEN}
    return Verdict(words[verdict.word], f"not: {verdict.because}")


def _joined(verdicts: list[Verdict], decides: Word, otherwise: Word) -> Verdict:
    if not verdicts:
        return Verdict(OPEN, "nothing was measured")
    words = [verdict.word for verdict in verdicts]
    word: Word = decides if decides in words else OPEN if OPEN in words else otherwise
    reasons = [verdict.because for verdict in verdicts if verdict.word == word]
    more = f"; and {len(reasons) - 4} more" if len(reasons) > 4 else ""
    return Verdict(word, "; ".join(reasons[:4]) + more)
