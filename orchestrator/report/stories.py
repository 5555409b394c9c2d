"""The samples that stand out, one by one: picture, class, and what every row's models say of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from . import words
from .rows import Report

_PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")


@dataclass(frozen=True)
class Story:
    """One sample.

    **Arguments:**

    - `name`, `label`: its id and its class.
    - `image`: a data URI, or empty.
    - `rows`: labels of the rows that list it. `attacks`: names of the attacks that do.
    - `bars`: row and mean probability of its label, as text; yardsticks and the rows that list it.
    """

    name: str
    label: str
    image: str
    rows: tuple[str, ...]
    attacks: tuple[str, ...]
    bars: tuple[tuple[str, str], ...]


def stories(report: Report) -> list[Story]:
    """Returns the samples of `curves.json`, the clearest first."""
    return [_story(report, sample) for sample in report.curves.get("samples") or () if isinstance(sample, Mapping)]


def _story(report: Report, sample: Mapping[str, object]) -> Story:
    places, means, image = sample.get("rows"), sample.get("confidence"), sample.get("image")
    listed = [place for place in places if place in range(len(report.rows))] if isinstance(places, list) else []
    shown = [row.index for row in report.rows if row.baseline] + listed
    bars = []
    for place in shown:
        mean = means[place] if isinstance(means, list) and place < len(means) else None
        if isinstance(mean, int | float):
            bars.append((report.rows[place].label, f"{mean:.2f}"))
    picture = image if isinstance(image, str) and _PICTURE.fullmatch(image) else ""
    name, label = words.clean(sample.get("id")), words.clean(sample.get("class"))
    told = sample.get("attacks")
    attacks = tuple(words.attack_name(str(attack)) for attack in told) if isinstance(told, list) else ()
    return Story(name, label, picture, tuple(report.rows[place].label for place in listed), attacks, tuple(bars))
