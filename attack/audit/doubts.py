"""What makes one doubt that outputs are what they are given for. An audit goes on, and says so
first of all."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..metrics.row import NO_UNLEARN
from ..outputs.measured import ROLE
from ..outputs.survey import Survey
from ..outputs.tally import Tally

NEARLY_ALL = 0.99


def doubts(survey: Survey) -> list[str]:
    """Returns questions about labels and logits, none where both look right."""
    found = []
    everything = _sum(survey.tallies.values())
    if everything.share(everything.probabilities) >= NEARLY_ALL:
        found.append(
            "Are these probabilities? All numbers lie from 0 to 1, or rows sum to 100, and attacks take logits. "
            "Give what comes before the softmax, or the logarithms of the probabilities."
        )
    members = [code for code, model in enumerate(survey.models) if model[ROLE] == "original" and code in survey.tallies]
    originals = _sum(survey.tallies[code] for code in members)
    if originals.rows and at_chance(originals, len(members), survey.width):
        right = f"{100 * originals.share(originals.right):.0f} % right, {100 / survey.width:.0f} % by chance"
        found.append(
            f"Are the labels right? The originals do no better than chance on samples that they were trained on ({right})."
            + (_shift(originals) or _dropped(survey))
        )
    return found


def at_chance(tally: Tally, models: int, classes: int) -> bool:
    """Whether models guess no better than blindly: within three standard errors of one model's
    samples, 0.15 at most."""
    chance, samples = 1 / classes, max(1, tally.rows // max(1, models))
    return tally.share(tally.right) <= chance + min(0.15, 3 * math.sqrt(chance * (1 - chance) / samples))


def _shift(tally: Tally) -> str:
    """Returns what a label off by one would explain, empty where it would explain little."""
    shares = {
        "They look 1 too high: do they count from 1?": tally.share(tally.one_less),
        "They look 1 too low.": tally.share(tally.one_more),
    }
    hint, share = max(shares.items(), key=lambda item: item[1])
    return f" {hint} With the class beside it {100 * share:.0f} % are right." if share > 0.5 else ""


def _dropped(survey: Survey) -> str:
    """Returns what dropped columns would explain, empty where columns say which class each is."""
    if survey.classes is not None:
        return ""
    return (
        " Were the columns of forgotten classes dropped from the logits? Then give num_classes (--num-classes), the number "
        "of all classes, or store the columns' classes with the table."
    )


def over_unlearned(method: str, word: str) -> list[str]:
    """Returns the question that originals raise whose verdict is "over-unlearned", none for other
    rows and words."""
    if method != NO_UNLEARN or word.replace("_", "-") != "over-unlearned":
        return []
    return [
        "Are roles and labels right? The originals come out as over-unlearned: they look less like models that saw the "
        "forget set than the retrained ones do."
    ]


def errors_of(survey: Survey) -> dict[tuple[str, ...], float]:
    """Returns each model's error on its rows in percent, by its identity.

    There are none where columns are of unknown classes. Nor are there where a label's class was
    dropped from the logits: no row of it can be right, whatever the model would have said.
    """
    if survey.dropped is not None:
        return {}
    return {
        survey.models[code]: 100.0 * (1.0 - tally.share(tally.right)) for code, tally in sorted(survey.tallies.items())
    }


def _sum(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total = total + tally
    return total
