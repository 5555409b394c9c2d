"""Checks of settings: a value that is not allowed is named, with what is allowed."""

from __future__ import annotations

import math
from collections.abc import Collection


def check_choice(name: str, value: object, allowed: Collection[str | None]) -> None:
    """Raises `ValueError` where `value` is not one of `allowed`."""
    if not isinstance(value, str | None) or value not in allowed:
        shown = ", ".join("null" if choice is None else choice for choice in allowed)
        raise ValueError(f"{name}: {value!r} is not allowed; allowed are {shown}")


def check_integer(name: str, value: object, least: int, *, optional: bool = False) -> None:
    """Raises `ValueError` where `value` is no integer of `least` or more; None is allowed where it
    is `optional`."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: {value!r} is not allowed; give an integer of {least} or more")


def is_number(value: object) -> bool:
    """Whether `value` is a finite number; `true` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Raises `ValueError` where `value` is no finite number within the bounds.

    **Arguments:** `least` and `most` are allowed themselves; `above` and `below` are not.
    """
    if isinstance(value, int | float) and is_number(value):
        low = (least is None or value >= least) and (above is None or value > above)
        if low and (most is None or value <= most) and (below is None or value < below):
            return
    if least is not None and most is not None:
        allowed = f"{least:g} to {most:g}"
    else:
        low_text = (
            f"{least:g} or more" if least is not None else f"a number above {above:g}" if above is not None else ""
        )
        high_text = f"at most {most:g}" if most is not None else f"below {below:g}" if below is not None else ""
        allowed = ", ".join(filter(None, (low_text, high_text))) or "a number"
    raise ValueError(f"{name}: {value!r} is not allowed; give {allowed}")
