"""Checks of an algorithm's settings: what is not allowed is named with what is."""

from __future__ import annotations


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises `ValueError` where `value` is not one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}: {value!r} is not allowed; allowed are {', '.join(allowed)}")


def check_ranges(settings: object, ranges: dict[str, tuple[float, float]]) -> None:
    """Raises `ValueError` where a field of `settings` lies outside its range, both ends allowed."""
    for name, (low, high) in ranges.items():
        value = vars(settings)[name]
        if not low <= value <= high:
            raise ValueError(f"{name}: {value!r} is not allowed; give {low:g} to {high:g}")
