"""Planted faults. A validator that accepts one of them is no validator."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache


def plant(text: str, old: str, new: str) -> str:
    """Returns `text` with the first `old` replaced; it must be there, so that a mutation cannot quietly do nothing."""
    assert old in text, f"{old!r} is not in the file any more: mend the mutation"
    assert old != new
    return text.replace(old, new, 1)


def noticed(check: Callable[[str], list[str]], text: str, old: str, new: str) -> bool:
    """Whether `check` finds nothing in `text` and something after `old` became `new`."""
    assert _faults(check, text) == ()
    return bool(check(plant(text, old, new)))


@cache
def _faults(check: Callable[[str], list[str]], text: str) -> tuple[str, ...]:
    return tuple(check(text))
