"""Cards of methods: everything that a person wants to know before running one, as typed data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..data.scenario import KINDS
from . import METHODS
from .base import Card, Choice, Preset, Range


@dataclass(frozen=True)
class Setting:
    """A field of a method: its name, its default (None where it must be given) and its search
    range."""

    name: str
    default: Any
    required: bool
    range: Range | Choice | None


@dataclass(frozen=True)
class Description:
    """A method as people choose it.

    **Arguments:** `access`: the most data that it sees. `validation`: whether it may need held-out
    samples too. The others are as of `Method`.
    """

    name: str
    access: str
    validation: bool
    scenarios: tuple[str, ...]
    card: Card
    settings: tuple[Setting, ...]
    presets: Mapping[str, Preset]


def describe(name: str) -> Description:
    """Returns the card of the method `name`. Raises `KeyError` where there is none."""
    cls = METHODS[name]
    scenarios = ("incremental",) if cls.in_steps else tuple(kind for kind in KINDS if kind in cls.scenarios)
    validation = cls.of(**cls.examples).needs().validation
    return Description(
        name, cls.access, validation, scenarios, cls.card, tuple(_settings(cls, cls.ranges)), cls.presets
    )


def _settings(cls: type, ranges: Mapping[str, Range | Choice]) -> list[Setting]:
    found: list[Setting] = []
    for item in dataclasses.fields(cls):
        inner = item.default_factory
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            found += _settings(inner, ranges)
            continue
        required = item.default is dataclasses.MISSING and inner is dataclasses.MISSING
        default = None if item.default is dataclasses.MISSING else item.default
        found.append(Setting(item.name, default, required, ranges.get(item.name)))
    return found
