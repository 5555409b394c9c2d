"""Cards of methods: everything that a person wants to know before running one, as typed data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..data.scenario import KINDS
from . import METHODS
from .base import Card, Choice, Presets, Range, Ranges


@dataclass(frozen=True)
class Setting:
    """A field of a method: its name, its default (None where it must be given) and its search
    range.

    A field that no search should vary has no range.
    """

    name: str
    default: Any
    required: bool
    range: Range | Choice | None

    @property
    def shown(self) -> str:
        """The default as a recipe writes it."""
        return "must be given" if self.required else plain(self.default)

    @property
    def searched(self) -> str:
        """The search range in words; empty where there is none."""
        if isinstance(self.range, Range):
            return f"{self.range.low:g} to {self.range.high:g}{', logarithmic' if self.range.log else ''}"
        return ", ".join(plain(value) for value in self.range.values) if self.range is not None else ""


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
    presets: Presets


def plain(value: object) -> str:
    """Returns a value as a recipe writes it: `null`, `true`, `0.1`."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def describe(name: str) -> Description:
    """Returns the card of the method `name`. Raises `KeyError` where there is none."""
    cls = METHODS[name]
    scenarios = ("incremental",) if cls.in_steps else tuple(kind for kind in KINDS if kind in cls.scenarios)
    validation = cls.of(**cls.examples).needs().validation
    return Description(
        name, cls.access, validation, scenarios, cls.card, tuple(_settings(cls, cls.space())), cls.presets
    )


def _settings(cls: type, ranges: Ranges) -> list[Setting]:
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
