"""Verdicts on claims, computed from intervals alone: holds, does not hold, or not measurable at
this size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from attack.metrics.chance import LEAST_MODELS, WIDEST, includes_chance, narrow
from attack.metrics.evidence import LEAST_MODELS as VERDICT_MODELS
from attack.metrics.measure import Measure
from attack.metrics.row import Row
from attack.metrics.verdict import Verdict as Judgement

from .measure import Experiment, measure

Word = Literal["holds", "does not hold", "not measurable at this size"]
HOLDS: Word = "holds"
FAILS: Word = "does not hold"
OPEN: Word = "not measurable at this size"


MOST_MODELS = 1000  # a longer wish is no help


@dataclass(frozen=True)
class Verdict:
    """One of three words, and the figures that it comes from.

    **Arguments:**

    - `needed`: about how many models would decide, where the measured mean stays. None where it is
        decided, or where models are not what is missing.
    - `by_auc`: what the AUC alone says, as the paper judges. None where that is the same.
    """

    word: Word
    because: str
    needed: int | None = None
    by_auc: Word | None = None

    @property
    def published(self) -> Word:
        """Returns the word by the paper's own rule."""
        return self.by_auc or self.word

    @property
    def decides(self) -> str:
        """Returns what it would take to decide, as a sentence."""
        if self.word != OPEN:
            return "It is decided."
        if self.needed is None:
            return "More models alone may not decide it: it was not measured, or its mean lies at the bound."
        if self.needed > MOST_MODELS:
            return f"More than {MOST_MODELS:,} models under test would be needed, if the means stay."
        return f"About {self.needed} models under test would decide, if the means stay."


@dataclass(frozen=True)
class Cause:
    """What may be the reason where a claim fails, and the item whose experiment varies it alone."""

    text: str
    item: str


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper and how it is put to the test on the experiments of its item."""

    text: str
    test: Callable[[Mapping[str, Experiment]], Verdict]
    causes: tuple[Cause, ...] = ()


WIDTH = Cause("The model is too narrow: its core space leaves no room to forget in.", "ablation-width")
RELEASE = Cause("The published numbers come from the release, which makes other choices.", "ablation-release")
PARAMETERS = Cause("A model of fewer parameters withstands less.", "stress-width")


def decisive(value: Measure) -> tuple[float, float] | None:
    """Returns the interval that a verdict may be built on: that of at least three models, else
    None.
    """
    return None if value.models is not None and value.models < LEAST_MODELS else value.interval


def above(what: str, value: Measure, bound: float = 0.0, digits: int = 2) -> Verdict:
    """Holds where the whole interval lies above `bound`, does not hold where it lies at or below
    it.
    """
    return _decided(
        what, value, f"above {bound:g}", digits, (bound,), lambda low, _: low > bound, lambda _, high: high <= bound
    )


def below(what: str, value: Measure, bound: float = 0.0, digits: int = 2) -> Verdict:
    """Holds where the whole interval lies below `bound`, does not hold where it lies at or above
    it.
    """
    return _decided(
        what, value, f"below {bound:g}", digits, (bound,), lambda _, high: high < bound, lambda low, _: low >= bound
    )


def within(what: str, value: Measure, bound: float, digits: int = 2) -> Verdict:
    """Holds where the whole interval lies in ±`bound`, does not hold where it lies outside
    altogether.
    """
    return _decided(
        what,
        value,
        f"within ±{bound:g}",
        digits,
        (-bound, bound),
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
    reason = f"{what}: {auc.text(3)}, to hold 0.5 and be no wider than {WIDEST:g}"
    few = VERDICT_MODELS if auc.models is not None and auc.models < VERDICT_MODELS else None
    return Verdict(word, reason, (_needed(auc, WIDEST / 2) or few) if word == OPEN else None)


def _needed(value: Measure, half: float) -> int | None:
    """Returns about how many models bring the interval down to ±`half`: its width falls with their
    root."""
    models = value.models or len(value.by_model)
    if not models or half <= 0 or value.low is None or value.high is None:
        return None
    return max(LEAST_MODELS, math.ceil(models * ((value.high - value.low) / 2 / half) ** 2))


# What each word on a row says of the claim that the row has forgotten, or that it has not.
_FORGOT: Mapping[str, Word] = {"forgot": HOLDS, "undecided": OPEN}
_REMEMBERS: Mapping[str, Word] = {"remembers": HOLDS, "forgot": FAILS, "over_unlearned": FAILS}


def forgets(what: str, row: Row | None) -> Verdict:
    """Holds where the verdict on a row is "forgot", and fails where it is another.

    Results of a version without verdicts are judged by the interval of the AUC.
    """
    if row is None or row.judged is None:
        return chance(f"AUC of {what}", measure(row, "auc"))
    alone = chance("AUC", row["auc"])
    return _by_rule(what, row, row.judged, _FORGOT.get(row.judged.word, FAILS), alone)


def remembers(what: str, row: Row | None) -> Verdict:
    """Holds where the verdict on a row is "did not forget", and fails where it forgot or was
    over-unlearned."""
    if row is None or row.judged is None:
        return above(f"AUC of {what}", measure(row, "auc"), 0.5, 3)
    alone = above("AUC", row["auc"], 0.5)
    return _by_rule(what, row, row.judged, _REMEMBERS.get(row.judged.word, OPEN), alone)


def over_unlearned(what: str, row: Row | None) -> Verdict:
    """Holds where the verdict on a row is "over-unlearned": the Streisand effect."""
    if row is None or row.judged is None:
        return above(f"0.5 less AUC of {what}", 0.5 - measure(row, "auc"), 0.0, 3)
    word = {"over_unlearned": HOLDS, "undecided": OPEN}.get(row.judged.word, FAILS)
    return _by_rule(what, row, row.judged, word, below("AUC", row["auc"], 0.5))


def _by_rule(what: str, row: Row, judged: Judgement, word: Word, alone: Verdict) -> Verdict:
    auc = row["auc"]
    shown = f", AUC {auc.text(3)}" if auc.known else ""
    because = f"{what}: {judged.title}{shown}. {judged.sentence()}"
    by_auc = alone.word if auc.known and alone.word != word else None
    return Verdict(word, because, judged.needed if word == OPEN else None, by_auc)


def _decided(
    what: str,
    value: Measure,
    wanted: str,
    digits: int,
    edges: Sequence[float],
    holds: Callable[[float, float], bool],
    fails: Callable[[float, float], bool],
) -> Verdict:
    if not value.known:
        return Verdict(OPEN, f"{what} was not measured")
    bounds = decisive(value)
    word = OPEN if bounds is None else HOLDS if holds(*bounds) else FAILS if fails(*bounds) else OPEN
    reason = f"{what}: {value.text(digits)}, to be {wanted}"
    mean = value.value
    if word != OPEN or mean is None:
        return Verdict(word, reason)
    if bounds is None:
        return Verdict(word, reason, LEAST_MODELS if value.models is not None else None)
    return Verdict(word, reason, _needed(value, min(abs(mean - edge) for edge in edges)))


def every(verdicts: Iterable[Verdict]) -> Verdict:
    """Holds where all hold, does not hold where one does not; the reasons are those that decide."""
    return _joined(list(verdicts), decides=FAILS, otherwise=HOLDS)


def some(verdicts: Iterable[Verdict]) -> Verdict:
    """Holds where one holds, does not hold where none does; the reasons are those that decide."""
    return _joined(list(verdicts), decides=HOLDS, otherwise=FAILS)


def opposite(verdict: Verdict) -> Verdict:
    """Holds where the verdict does not, and the other way round."""
    words: dict[Word, Word] = {HOLDS: FAILS, FAILS: HOLDS, OPEN: OPEN}
    by_auc = words[verdict.by_auc] if verdict.by_auc else None
    return Verdict(words[verdict.word], f"not: {verdict.because}", verdict.needed, by_auc)


def _joined(verdicts: list[Verdict], decides: Word, otherwise: Word) -> Verdict:
    if not verdicts:
        return Verdict(OPEN, "nothing was measured")

    def joined(words: Sequence[Word]) -> Word:
        return decides if decides in words else OPEN if OPEN in words else otherwise

    word, by_auc = joined([v.word for v in verdicts]), joined([v.published for v in verdicts])
    telling = [verdict for verdict in verdicts if verdict.word == word]
    reasons = [verdict.because for verdict in telling]
    wishes = [verdict.needed for verdict in telling] if word == OPEN else []
    needed = None if not wishes or None in wishes else max(wish for wish in wishes if wish is not None)
    more = f"; and {len(reasons) - 4} more" if len(reasons) > 4 else ""
    return Verdict(word, "; ".join(reasons[:4]) + more, needed, by_auc if by_auc != word else None)
