"""Plain JSON data: what recipes, keys and stored facts consist of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"
Object: TypeAlias = Mapping[str, Json]
# What a unit or a step says of itself, by name. Who measures decides which names there are;
# `plan.facts` has the shapes that are known.
Record: TypeAlias = Mapping[str, Any]
T = TypeVar("T")
# One encoder for all: making it takes longer than encoding a small object.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_FEW = 8  # longer lists are the encoder's


def canonical(value: object) -> str:
    """Returns JSON text that is equal for equal data: sorted keys, no spaces, shortest floats.

    **Raises:** `ValueError` for NaN and infinity, which JSON does not have.
    """
    return _short(value) or _CANONICAL.encode(value)


def _short(value: object) -> str:
    """Returns the canonical JSON of a text, an integer, or a few of them; empty for anything else.

    The encoder takes twenty microseconds to begin, which counts where a plan has a hundred thousand
    units.
    """
    if isinstance(value, str):
        return json.encoder.encode_basestring_ascii(value)
    if type(value) is int:
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and len(value) <= _FEW:
        parts = [_short(part) for part in value]
        return f"[{','.join(parts)}]" if all(parts) else ""
    return ""


def digest(value: object) -> str:
    """Returns the SHA-256 of the canonical JSON of `value` as hexadecimal text."""
    return digest_of_text(canonical(value))


def digest_of_text(text: str) -> str:
    """Returns the SHA-256 of a text in UTF-8 as hexadecimal text."""
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: object) -> Json:
    """Returns `value` as JSON data: tuples become lists, keys become text.

    **Raises:** `TypeError` for anything that JSON does not have.
    """
    if value is None or isinstance(value, str | bool | int | float):  # most of them by far
        return value
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return [plain(v) for v in sorted(value)]
    raise TypeError(f"{type(value).__name__} cannot be part of a recipe: {value!r}")


def finite(value: T) -> T:
    """Returns `value` with NaN and infinities as null: what cannot be measured is null, and JSON
    knows no NaN.
    """
    made: T = _finite(value)
    return made


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
