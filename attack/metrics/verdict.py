"""The verdict on one row: what AUCs and their intervals say about forgetting. Decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

CHANCE = 0.5


# Of two models a side the 95 % interval holds the true AUC in 62 % of cases, of three in 89 % (docs/LOG.md).
LEAST_MODELS = 3


WIDEST = 0.2  # an interval wider than this says nothing about chance, though it holds 0.5


Word = Literal["forgot", "remembers", "told apart", "over-unlearned", "undecided"]


# From the least to the most grave. What is not decided outranks "forgot": one attack that might succeed leaves a claim open.
GRAVITY: tuple[Word, ...] = ("forgot", "undecided", "told apart", "over-unlearned", "remembers")


TITLES: dict[Word, str] = {
    "forgot": "Forgot",
    "remembers": "Did not forget",
    "told apart": "Told apart",
    "over-unlearned": "Over-unlearned (Streisand effect)",
    "undecided": "Not decided",
}


@dataclass(frozen=True)
class Reading:
    """What one attack measured of one row: its AUC against retrained models and the 95 % interval, None where there is none.

    **Arguments:**

    - `models`: on the side that has fewer of them; None where that is not known.
    - `directed`: a high score means "trained on". `per_method`: the attack was fitted on the method's own models.
        `reads_label`: it reads the label's own logit, so that it knows how confident a model is of the label.
    """

    attack: str
    auc: float
    interval: tuple[float, float] | None
    models: int | None = None
    directed: bool = True
    per_method: bool = False
    reads_label: bool = True

    def __str__(self) -> str:
        bounds = "" if self.interval is None else f" [{self.interval[0]:.3f}, {self.interval[1]:.3f}]"
        return f"AUC {self.auc:.3f}{bounds}"


@dataclass(frozen=True)
class Verdict:
    """A word, the readings that decide it, and why: `because` goes on from the readings as text.

    `blind`: the attack does not recognise even models that were never unlearned, so that its 0.5 says nothing.
    """

    word: Word
    grounds: tuple[Reading, ...]
    because: str
    blind: bool = False

    @property
    def title(self) -> str:
        few = self.word == "undecided" and any(_too_few(reading) for reading in self.grounds)
        return TITLES[self.word] + (f" (fewer than {LEAST_MODELS} models)" if few else "")

    def sentence(self, name: Callable[[str], str] | None = None) -> str:
        """Returns the readings and what they mean. **Arguments:** `name`: returns what an attack is called; None leaves it out."""
        shown = [f"{name(reading.attack)} {reading}" if name else str(reading) for reading in self.grounds]
        if len(shown) == 1:
            return shown[0] + self.because
        return f"{', '.join(shown[:-1])} and {shown[-1]}" + self.because.replace(" includes ", " include ", 1)

    def told(self, attacks: int = 1) -> str:
        """Returns title and sentence as `results.json` has them, with the attack that decides where several are run."""
        first = self.grounds[0]
        text = f"{self.title}: {replace(self, grounds=(first,)).sentence()}"
        return text if attacks == 1 else f"{text} ({first.attack})"


def judge(
    measured: Sequence[Reading], before: Mapping[str, Reading] | None = None, *, yardstick: bool = False
) -> Verdict | None:
    """Returns the gravest of what a row's attacks say; None where there are none.

    **Arguments:**

    - `before`: by attack, what it measured of models that were never unlearned.
    - `yardstick`: the row is of retrained models, which had nothing to forget: a blind attack may say so of them.

    One attack that succeeds is enough to break a claim of forgetting. A blind one says nothing beside others that see. Where
    they contradict each other on the direction, those that read the label's logit decide it: they measure the confidence
    itself, where trees that never saw such outputs guess.
    """
    each = [judge_one(reading, (before or {}).get(reading.attack), yardstick=yardstick) for reading in measured]
    said = [verdict for verdict in each if not verdict.blind] or each
    if not said:
        return None
    word = max((verdict.word for verdict in said), key=GRAVITY.index)
    if word == "remembers" and not _of_readers(said, "remembers") and _of_readers(said, "over-unlearned"):
        found = max(_of_readers(said, "over-unlearned"), key=_distance)
        return replace(
            found,
            because=f"{found.because} Attacks that do not read the label's logit take the samples for recognised.",
        )
    alike = [verdict for verdict in said if verdict.word == word]
    if word == "forgot" or alike[0].blind:
        return replace(alike[0], grounds=tuple(reading for verdict in alike for reading in verdict.grounds))
    if word == "undecided":
        return alike[0]
    return max(alike, key=_distance)


def judge_one(reading: Reading, before: Reading | None = None, *, yardstick: bool = False) -> Verdict:
    """Returns what one attack says of a row; see `judge`."""

    def found(word: Word, because: str, blind: bool = False) -> Verdict:
        return Verdict(word, (reading,), because, blind)

    if reading.interval is None:
        return found("undecided", ", but with one model on a side there is no interval.")
    if _too_few(reading):
        return found(
            "undecided",
            f" is over {reading.models} models on a side, whose intervals miss the truth too often; "
            f"give each side {LEAST_MODELS} or more.",
        )
    low, high = reading.interval
    if low > CHANCE and reading.directed:
        return found("remembers", " lies above 0.5, so the attacker still recognises the forget set.")
    if high < CHANCE and reading.directed:
        return found(
            "over-unlearned",
            " lies below 0.5, so forget samples stand out by too little confidence; "
            "an attacker who turns the score round finds them.",
        )
    if high < CHANCE and reading.per_method:
        return found(
            "undecided",
            " lies below 0.5, which an attack fitted on the method's own models gives by chance only; use more models.",
        )
    if not includes_chance(low, high):
        return found(
            "told apart",
            f" lies {'above' if low > CHANCE else 'below'} 0.5, so the models differ from retrained ones, "
            "by too little or too much forgetting.",
        )
    if not narrow(low, high):
        return found(
            "undecided",
            " includes 0.5, but is so wide that strong recognition is not ruled out; more models narrow it.",
        )
    if before is not None and before.interval is not None:
        if includes_chance(*before.interval) and not yardstick:
            return found(
                "undecided",
                " includes 0.5, but so does that of models never unlearned: the attack is too weak here.",
                blind=True,
            )
        if (before.interval[0] > CHANCE and high >= before.auc) or (before.interval[1] < CHANCE and low <= before.auc):
            return found(
                "undecided",
                f" includes 0.5, but also the {before.auc:.3f} of models never unlearned; more models narrow it.",
            )
    return found("forgot", " includes 0.5: forgotten, as far as this can tell.")


def includes_chance(low: float, high: float) -> bool:
    """Says whether the interval of an AUC holds 0.5."""
    return low <= CHANCE <= high


def narrow(low: float, high: float) -> bool:
    """Says whether the interval of an AUC is narrow enough for the 0.5 in it to mean something."""
    return high - low <= WIDEST + 1e-9  # such as [0.45, 0.65], whose difference rounds to more than 0.2


def _of_readers(verdicts: Sequence[Verdict], word: Word) -> list[Verdict]:
    """Returns those of attacks that read the label's logit and say `word`."""
    return [verdict for verdict in verdicts if verdict.word == word and verdict.grounds[0].reads_label]


def _distance(verdict: Verdict) -> float:
    return abs(verdict.grounds[0].auc - CHANCE)


def _too_few(reading: Reading) -> bool:
    return reading.models is not None and reading.models < LEAST_MODELS
