"""Types of recipe values: what YAML spells in several ways is one value, and `true` is no
number."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BeforeValidator

T = TypeVar("T")


def _integer(value: T) -> T:
    if isinstance(value, bool):
        raise ValueError("an integer is needed")
    return value


def _number(value: T) -> T:
    if isinstance(value, bool):
        raise ValueError("a number is needed")
    return value


def _nothing(value: T) -> T | None:
    """`none` is what people write who think in Python; YAML's own word is `null`."""
    return None if isinstance(value, str) and value.lower() == "none" else value


Integer = Annotated[int, BeforeValidator(_integer)]
Number = Annotated[float, BeforeValidator(_number)]
OptionalText = Annotated[str | None, BeforeValidator(_nothing)]


def strictly(hint: Any) -> Any:
    """Returns the type `hint` such that integers and numbers refuse `true`, and `none` is null
    where null is allowed."""
    if hint is int:
        return Integer
    if hint is float:
        return Number
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if bool in parts:
            return hint
        union: Any = Union[tuple(strictly(part) for part in parts)]  # noqa: UP007 - the parts are not written here
        return Annotated[union, BeforeValidator(_nothing)] if type(None) in parts else union
    if origin is Annotated:
        return Annotated[(strictly(parts[0]), *parts[1:])]
    if origin in (list, tuple, dict, set, frozenset) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return origin[tuple(part if part is Ellipsis else strictly(part) for part in parts)]
    return hint
