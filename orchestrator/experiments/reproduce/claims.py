"""Verdicts on claims, computed from intervals alone: holds, does not hold, or not measurable at this size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from attack.metrics.verdict import WIDEST, includes_chance, narrow

from .measure import Experiment, Quantity

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


def above(what: str, value: Quantity | None, bound: float = 0.0, digits: int = 2) -> Verdict:
    """Holds where the whole interval lies above `bound`, does not hold where the whole interval lies at or below it."""
    if value is None:
        return Verdict(OPEN, f"{what} was not measured")
    word = HOLDS if value.low > bound else FAILS if value.high <= bound else OPEN
    if not value.interval:
        word = OPEN
    return Verdict(word, f"{what}: {value.text(digits)}, to be above {bound:g}")


def below(what: str, value: Quantity | None, bound: float = 0.0, digits: int = 2) -> Verdict:
    """Holds where the whole interval lies below `bound`, does not hold where the whole interval lies at or above it."""
    if value is None:
        return Verdict(OPEN, f"{what} was not measured")
    word = HOLDS if value.high < bound else FAILS if value.low >= bound else OPEN
    if not value.interval:
        word = OPEN
    return Verdict(word, f"{what}: {value.text(digits)}, to be below {bound:g}")


def within(what: str, value: Quantity | None, bound: float, digits: int = 2) -> Verdict:
    """Holds where the whole interval lies in ±`bound`, does not hold where it lies outside altogether."""
    if value is None:
        return Verdict(OPEN, f"{what} was not measured")
    inside = -bound <= value.low and value.high <= bound
    outside = value.low > bound or value.high < -bound
    word = OPEN if not value.interval else HOLDS if inside else FAILS if outside else OPEN
    return Verdict(word, f"{what}: {value.text(digits)}, to be within ±{bound:g}")


def chance(what: str, auc: Quantity | None) -> Verdict:
    """Holds where the interval of an AUC holds 0.5 and is narrow enough to say so."""
    if auc is None:
        return Verdict(OPEN, f"{what} was not measured")
    if not auc.interval:
        word: Word = OPEN
    elif not includes_chance(auc.low, auc.high):
        word = FAILS
    else:
        word = HOLDS if narrow(auc.low, auc.high) else OPEN
    return Verdict(word, f"{what}: {auc.text(3)}, to hold 0.5 and be no wider than {WIDEST:g}")


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


def difference(left: Quantity | None, right: Quantity | None) -> Quantity | None:
    """Returns left − right, None where one of them was not measured."""
    return None if left is None or right is None else left.minus(right)


def _joined(verdicts: list[Verdict], decides: Word, otherwise: Word) -> Verdict:
    if not verdicts:
        return Verdict(OPEN, "nothing was measured")
    words = [verdict.word for verdict in verdicts]
    word: Word = decides if decides in words else OPEN if OPEN in words else otherwise
    reasons = [verdict.because for verdict in verdicts if verdict.word == word]
    more = f"; and {len(reasons) - 4} more" if len(reasons) > 4 else ""
    return Verdict(word, "; ".join(reasons[:4]) + more)
