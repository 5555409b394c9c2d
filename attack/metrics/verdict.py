"""The verdict on a row: one word, its reason, and the numbers behind both. Decided here only.

`docs/explanation/what-the-words-mean.md` states the rule, its simulated error rates and the reason
of each guard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from .evidence import LEAST_MODELS, AttackEvidence, Evidence, GapLeft, Rule, UnseenEvidence
from .leak import Ratio, failing_models, models_needed
from .students import holm
from .t_intervals import TAIL

VerdictWord = Literal["forgot", "remembers", "over_unlearned", "damaged", "undecided"]

TITLES: dict[VerdictWord, str] = {
    "forgot": "Forgot",
    "remembers": "Did not forget",
    "over_unlearned": "Over-unlearned (Streisand effect)",
    "damaged": "Damaged",
    "undecided": "Not decided",
}
DEFAULT_RULE = Rule()
MOST_MODELS = 1000  # a longer wish is no help


@dataclass(frozen=True)
class Leak:
    """The share of an attack's leak that is left, with its 95 % interval, `auc`, and Retrain's AUC.

    `sees`: the attack tells models that were never unlearned from retrained ones. One that does not
    see has no share and decides nothing.
    """

    attack: str
    auc: float
    retrain_auc: float
    sees: bool
    value: float | None = None
    low: float | None = None
    high: float | None = None

    def text(self, name: str) -> str:
        """Returns the share in words, with the attack's name."""
        if self.value is None:
            return f"{name} sees nothing even before unlearning"
        shown = f"{name} {percent(self.value)}"
        if self.low is None or self.high is None:
            return shown
        return f"{shown} [{percent(self.low)}, {percent(self.high)}]"


@dataclass(frozen=True)
class Verdict:
    """A word, the reason as a clause, and what both rest on.

    **Arguments:**

    - `leaks`: of every attack, in the order given.
    - `strongest`: the attack that tells the models apart best, None where none sees anything.
    - `failing`: places of the models under test whose own leak exceeds the tolerance.
    - `needed`: about how many models a side would decide; None where the word is decided, or where
        models are not what is missing.
    - `few`: how many independent models a side has, where they are too few for any verdict.
    - `samples`: the share of forget samples that stand out one by one; None where not measured.
    - `gap`, `shift`: of forget samples against unseen images, and of unseen images themselves.
    - `gaps`: what divergences say is left.
    """

    word: VerdictWord
    reason: str
    leaks: tuple[Leak, ...] = ()
    strongest: str | None = None
    failing: tuple[int, ...] = ()
    needed: int | None = None
    samples: float | None = None
    gap: float | None = None
    shift: float | None = None
    notes: tuple[str, ...] = field(default=())
    gaps: tuple[GapLeft, ...] = ()
    few: int | None = None

    @property
    def title(self) -> str:
        return TITLES[self.word]

    def sentence(self, name: Callable[[str], str] | None = None) -> str:
        """Returns the reason, the strongest attack, and what would decide. `name`: what an attack
        is called."""
        called = name or (lambda attack: attack)
        said = [f"{self.reason}."]
        for leak in self.leaks:
            if leak.attack == self.strongest:
                aucs = f"AUC {leak.auc:.3f} where Retrain has {leak.retrain_auc:.3f}"
                said.append(f"The strongest attack, {called(leak.attack)}, has {aucs}.")
        seen = [leak.text(called(leak.attack)) for leak in self.leaks if leak.sees]
        said += [f"Left of the leak: {_listed(seen)}."] if seen else []
        if self.needed is not None and self.needed <= MOST_MODELS:
            said.append(f"About {self.needed} models a side would decide.")
        elif self.needed is not None:
            said.append(f"More than {MOST_MODELS:,} models a side would be needed to decide.")
        elif self.word == "undecided" and seen and self.few is None:
            said.append("More models alone may not decide this.")
        return " ".join(said)

    def told(self) -> str:
        """Returns title and sentence, as `results.json` has them."""
        return f"{self.title}: {self.sentence()}"

    def to_json(self) -> dict[str, Any]:
        """Returns JSON data that `from_json` makes the same verdict of."""
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return found | {name: [dict(vars(each)) for each in found[name]] for name in ("leaks", "gaps")}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Verdict:
        """Returns what `to_json` wrote.

        **Raises:** `ValueError` where the word is none of those known.
        """
        word = document.get("word")
        if word not in get_args(VerdictWord):
            raise ValueError(f"verdict: word: {word!r} is not allowed; allowed are {', '.join(get_args(VerdictWord))}")
        known = {name: document[name] for name in cls.__dataclass_fields__ if document.get(name) is not None}
        for name in ("failing", "notes"):
            known[name] = tuple(known.get(name, ()))
        known["leaks"] = tuple(Leak(**leak) for leak in known.get("leaks", ()))
        known["gaps"] = tuple(GapLeft(**gap) for gap in known.get("gaps", ()))
        return cls(**{"reason": "", **known})


def judge(evidence: Evidence, rule: Rule = DEFAULT_RULE) -> Verdict:
    """Returns the verdict on a row."""
    return _Case(evidence, rule).verdict()


class _Case:
    """One row on its way to a word."""

    def __init__(self, evidence: Evidence, rule: Rule):
        self.evidence, self.rule = evidence, rule
        self.seeing = [found for found in evidence.attacks if found.sees]
        unseen = evidence.unseen
        self.unseen: UnseenEvidence | None = unseen if unseen is not None and unseen.sees else None
        self.failing: tuple[int, ...] = ()
        self.high: list[str] = []  # evidence of memory that holds after correction for its number
        self.low: list[str] = []  # directed attacks that find forget samples below Retrain's

    def verdict(self) -> Verdict:
        """Returns the word. The first rule that applies gives it."""
        if self.evidence.constant:
            return self._said("damaged", "The outputs are the same for all images")
        if not self.evidence.attacks:
            return self._said("undecided", "No attack could be measured")
        if self.evidence.models < LEAST_MODELS:
            few = f"{self.evidence.models} independent models on a side are too few"
            return self._said("undecided", f"{few}; give each side {LEAST_MODELS} or more")
        if not self.seeing:
            return self._said("undecided", "No attack tells even models that were never unlearned from retrained ones")
        self._weigh()
        return self._of_steady() if self._steady() else self._of_moved()

    def _weigh(self) -> None:
        """Tests all evidence of memory and corrects for its number; then that of too little
        confidence."""
        tested = {found.attack: found.ratio.p_above(0.0) for found in self.seeing}
        if self.evidence.traces is not None:
            tested["traces"] = self.evidence.traces.p_value
        directed = [found for found in self.seeing if found.directed]
        if directed and not self.evidence.reference:
            clearest = min(directed, key=lambda found: found.ratio.p_denominator).sides
            by_model = [side.mean(axis=1) for side in (clearest.method, clearest.retrain, clearest.before)]
            each = failing_models(by_model[0], by_model[1], by_model[2], self.rule.tolerance) * len(by_model[0])
            tested["models"] = min(1.0, float(each.min()))
            self.failing = tuple(int(place) for place in np.flatnonzero(each < TAIL))
        if self.unseen is not None:
            tested["unseen"] = self.unseen.gap.p_above(0.0)
        self.high = _holding(tested)
        self.low = _holding({found.attack: found.ratio.p_below(0.0) for found in directed})

    def _steady(self) -> bool:
        """Says whether unseen images are treated as by Retrain, as far as was measured."""
        if self.unseen is None:
            return True
        tolerance, shift = self.rule.tolerance, self.unseen.shift
        return shift.p_below(-tolerance) >= TAIL and shift.p_above(tolerance) >= TAIL

    def _of_steady(self) -> Verdict:
        undirected = [found.attack for found in self.seeing if not found.directed]
        sure = [name for name in self.high if name not in undirected]
        if sure or (self.high and not self.low):
            return self._said("remembers", self._memory())
        if not self.low:
            return self._equivalent()
        if self.unseen is None:
            return self._said(
                "undecided",
                "Forget samples score lower than under Retrain. Without outputs on unseen images, damage "
                "cannot be told from over-unlearning",
            )
        if self.unseen.gap.p_below(0.0) < TAIL:
            return self._said(
                "over_unlearned", "Forget samples stand out against unseen images by too little confidence"
            )
        return self._said(
            "undecided", "Forget samples score lower than under Retrain, but do not stand out against unseen images"
        )

    def _of_moved(self) -> Verdict:
        """Decides where unseen images moved too: only comparisons under the same models count."""
        assert self.unseen is not None
        gap = self.unseen.gap
        if "unseen" in self.high:
            return self._said("remembers", "Forget samples stand out against unseen images under the same models")
        if gap.p_below(-self.rule.tolerance) < TAIL:
            return self._said(
                "over_unlearned", "Forget samples stand out against unseen images by too little confidence"
            )
        if self.unseen.shift.value < 0.0:
            return self._said("damaged", "Unseen images lost confidence as forget samples did")
        if self.high:
            return self._said(
                "undecided", "All outputs grew more confident, on unseen images too, which attacks mistake for memory"
            )
        return self._equivalent()

    def _equivalent(self) -> Verdict:
        """Decides between "forgot", which must be shown, and "undecided"."""
        tolerance, fpr, found = self.rule.tolerance, self.rule.tail_fpr, self.evidence.traces
        if any(ratio.p_below(tolerance) >= TAIL or ratio.p_above(-tolerance) >= TAIL for ratio in self._ratios()):
            return self._said("undecided", self._open())
        if found is None:
            return self._said("undecided", "Single samples could not be examined")
        if found.share - max(fpr, found.chance) > fpr + 1e-9:
            return self._said(
                "undecided",
                f"{percent(found.share)} of the forget samples stand out one by one, where chance gives {percent(found.chance)}",
            )
        for gap in self.evidence.gaps:
            if gap.low > tolerance:
                return self._said(
                    "undecided", f"No attack decides, but {gap.divergence} finds {percent(gap.value)} of its gap left"
                )
        if self.evidence.bent:
            told = _listed(self.evidence.bent)
            return self._said(
                "undecided", f"{told} tells Retrain itself from other retrained models, so the yardstick is in doubt"
            )
        return self._said(
            "forgot", f"No attack finds more than {percent(tolerance)} of the leak, and no single samples stand out"
        )

    def _ratios(self) -> list[Ratio]:
        """Returns all that must lie within the tolerance: each attack's leak, and forget samples
        against unseen images."""
        return [attack.ratio for attack in self.seeing] + ([] if self.unseen is None else [self.unseen.gap])

    def _open(self) -> str:
        """Returns how much of the leak may be left, or how far too low the scores may be."""
        known = [(found.ratio.value, found.ratio.interval()) for found in self.seeing]
        if any(interval is None for _, interval in known):
            return "The leak before unlearning is hardly measured"
        value, high = max(((value, interval[1]) for value, interval in known if interval), key=lambda one: one[1])
        if high >= self.rule.tolerance:
            return f"{percent(max(value, 0.0))} of the leak may be left, up to {percent(high)}"
        value, low = min(((value, interval[0]) for value, interval in known if interval), key=lambda one: one[1])
        if low <= -self.rule.tolerance:
            return f"Forget samples may score lower than under Retrain, by up to {percent(-low)} of the leak"
        return "How forget samples compare with unseen images is not narrowed to the tolerance"

    def _memory(self) -> str:
        """Returns what still remembers, the clearest evidence first."""
        found = self.evidence.traces
        if any(attack.attack in self.high for attack in self.seeing):
            return "An attack still recognises the forget set"
        if "traces" in self.high and found is not None:
            return f"{percent(found.share)} of the forget samples stand out one by one, where chance gives {percent(found.chance)}"
        if "models" in self.high:
            return f"{len(self.failing)} of the models under test still remember"
        return "Forget samples stand out against unseen images under the same models"

    def _said(self, word: VerdictWord, reason: str) -> Verdict:
        leaks = tuple(_leak(found) for found in self.evidence.attacks)
        seen = [leak for leak in leaks if leak.sees]
        strongest = max(seen, key=lambda leak: abs(leak.auc - leak.retrain_auc), default=None)
        needed = None
        now = self.evidence.models
        few = now if word == "undecided" and self.evidence.attacks and now < LEAST_MODELS else None
        if word == "undecided" and few is None and seen:
            each = [models_needed(ratio.value, ratio.interval(), now, self.rule.tolerance) for ratio in self._ratios()]
            needed = None if None in each else max(count for count in each if count is not None)
            needed = needed if needed != now else None
        samples = None if self.evidence.traces is None else self.evidence.traces.share
        gap, shift = (None, None) if self.unseen is None else (self.unseen.gap.value, self.unseen.shift.value)
        return Verdict(
            word,
            reason,
            leaks,
            strongest.attack if strongest else None,
            self.failing,
            needed,
            samples,
            gap,
            shift,
            gaps=tuple(self.evidence.gaps),
            few=few,
        )


def percent(share: float) -> str:
    """Returns a share as a whole percentage, of small ones with one decimal."""
    value = 100.0 * share
    text = f"{value:.0f}" if abs(value) >= 10.0 or value == 0.0 else f"{value:.1f}"
    return text.replace("-", "−") + " %"


def _leak(found: AttackEvidence) -> Leak:
    auc, retrain = float(found.sides.method.mean()), float(found.sides.retrain.mean())
    if not found.sees:
        return Leak(found.attack, auc, retrain, False)
    low, high = found.ratio.interval() or (None, None)
    return Leak(found.attack, auc, retrain, True, found.ratio.value, low, high)


def _holding(p_values: Mapping[str, float]) -> list[str]:
    """Returns the evidence that holds after Holm's correction."""
    return [name for name, p in zip(p_values, holm(list(p_values.values())), strict=True) if p < TAIL]


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
