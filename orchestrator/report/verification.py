"""The page about one model of the user's own: what it gives away of the samples to forget."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ..base.values import Object, finite
from . import words
from .templates import render

VERSION = 1


@dataclass(frozen=True)
class Accuracy:
    """Shares of images that are classified rightly, 0 to 1; None where there are no such images."""

    forget: float | None
    retain: float | None
    test: float | None

    def __str__(self) -> str:
        parts = [("forget", self.forget), ("retain", self.retain), ("test", self.test)]
        return ", ".join(f"{name} {percent(value)}" for name, value in parts)


@dataclass(frozen=True)
class Sample:
    """A forget sample that stands out under a model: its id, its class and perhaps a picture."""

    id: str
    label: str
    image: str = ""


@dataclass(frozen=True)
class Subject:
    """One model under test.

    **Arguments:**

    - `name`: such as `your model` or `after pgu`. `unlearned`: whether it should have forgotten.
    - `word`, `reason`: the verdict. `file`: the weights.
    - `left`, `low`, `high`: share of the leak that is left, and its 95 % interval.
    - `rank_above`: how often a retrained model looks as much like a member.
    - `samples`: that still stand out. `usual`: how many do under retrained models, at most.
    """

    name: str
    unlearned: bool
    accuracy: Accuracy
    word: words.Verdict
    reason: str
    left: float | None = None
    low: float | None = None
    high: float | None = None
    rank_above: float | None = None
    samples: Sequence[Sample] = ()
    usual: int = 0
    file: str = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Shadows:
    """One kind of shadow models: how many, and their mean accuracy."""

    name: str
    count: int
    accuracy: Accuracy


@dataclass(frozen=True)
class Check:
    """One comparison of the given model with the shadow models of the assumed training recipe."""

    what: str
    yours: float
    low: float
    high: float

    @property
    def fits(self) -> bool:
        return self.low <= self.yours <= self.high


@dataclass(frozen=True)
class Verification:
    """Everything that the page says. `assumed`: the training recipe that shadow models used."""

    title: str
    model: str
    digest: str
    data: str
    forget: int
    subjects: Sequence[Subject]
    shadows: Sequence[Shadows]
    checks: Sequence[Check]
    assumed: Object
    architecture: Object
    notes: Sequence[str]
    allowed: Sequence[str]
    limits: Sequence[str]
    work: Mapping[str, int]

    def to_json(self) -> Object:
        """Returns `verify.json`; what is not known is null."""
        checks = [{**asdict(check), "fits": check.fits} for check in self.checks]
        subjects = [{**asdict(each), "samples": [_without_image(s) for s in each.samples]} for each in self.subjects]
        found: Object = finite({"schema": VERSION, **asdict(self), "checks": checks, "subjects": subjects})
        return found


def _without_image(sample: Sample) -> dict[str, str]:
    return {"id": sample.id, "class": sample.label}


def percent(share: float | None) -> str:
    """Returns a share as percent, in words where it is not known."""
    return words.NOT_MEASURABLE if share is None or not math.isfinite(share) else f"{100 * share:.1f} %"


def interval(subject: Subject) -> str:
    """Returns the leak that is left, with its interval."""
    if subject.low is None or subject.high is None or not math.isfinite(subject.high - subject.low):
        return words.NOT_MEASURABLE
    return f"{percent(subject.left)} [{100 * subject.low:.1f}, {100 * subject.high:.1f}]"


def table(found: Verification) -> list[list[str]]:
    """Returns the before/after table: a head and one line for each model or kind of model."""
    lines = [["", "forget accuracy", "retain accuracy", "test accuracy", "leak left [95 %]", "verdict"]]
    for subject in found.subjects:
        verdict = subject.word if subject.unlearned else ""
        lines.append([subject.name, *_cells(subject.accuracy), interval(subject), verdict])
    return lines + [[f"{kind.count} {kind.name}", *_cells(kind.accuracy), "", ""] for kind in found.shadows]


def _cells(accuracy: Accuracy) -> list[str]:
    return [percent(accuracy.forget), percent(accuracy.retain), percent(accuracy.test)]


def verification_page(found: Verification) -> str:
    """Returns the page: one self-contained HTML file, every text escaped."""
    lines = table(found)
    values = dict(
        found=found,
        head=lines[0],
        lines=lines[1:],
        symbols={word: symbol for word, (symbol, _) in words.VERDICTS.items()},
        assumed=json.dumps(finite(found.assumed), ensure_ascii=False),
        architecture=json.dumps(finite(found.architecture), ensure_ascii=False),
    )
    return render("verification.html", values, {"percent": percent})
