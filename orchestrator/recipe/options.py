"""Checks options against the thing that takes them: a dataclass's fields or a function's
parameters.

This is what makes a new method, attack or data source one file and one line: its own signature is
its schema.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic_core import ErrorDetails

from unlearn import METHODS
from unlearn.methods.base import Method

from ..base.errors import UNSAID, Fault, first_line, nearest
from ..base.values import Json, plain
from .values import strictly

# What a recipe chooses: a dataclass of settings, or a function that builds.
Target: TypeAlias = Callable[..., object]
B = TypeVar("B")
LATER = {"since": 2}  # metadata of a field that came after the first version: see `settings_of`


def option_names(target: Target, skip: Sequence[str] = ()) -> list[str]:
    """Returns the names of the options that `target`, a dataclass or a callable, takes."""
    return [name for name in options_of(target) if name not in skip]


@lru_cache(maxsize=256)
def options_of(target: Target) -> dict[str, tuple[Any, Any]]:
    """Returns name → (type, default or `...`) of a dataclass's fields or a callable's
    parameters."""
    found: dict[str, tuple[Any, Any]] = {}
    if dataclasses.is_dataclass(target):
        hints = typing.get_type_hints(target)
        for item in dataclasses.fields(target):
            if not item.init:
                continue
            if dataclasses.is_dataclass(item.default_factory):
                # settings of settings are given beside the others
                found |= options_of(item.default_factory)
                continue
            default: Any = ...
            if item.default is not dataclasses.MISSING:
                default = item.default
            elif item.default_factory is not dataclasses.MISSING:
                default = Field(default_factory=item.default_factory)
            found[item.name] = (hints.get(item.name, Any), default)
        return found
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or name == "on_progress":
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        found[name] = (hints.get(name, Any), default)
    return found


def options_model(
    target: Target, *, skip: Sequence[str] = (), extra: Mapping[str, object] | None = None
) -> type[BaseModel]:
    """Returns a strict pydantic model of the options of `target`."""
    return _options_model(target, tuple(skip), tuple((extra or {}).items()))


@lru_cache(maxsize=256)
def _options_model(target: Target, skip: tuple[str, ...], extra: tuple[tuple[str, Any], ...]) -> type[BaseModel]:
    options = {name: option for name, option in options_of(target).items() if name not in skip}
    options |= {name: (kind, None) for name, kind in extra}
    fields: dict[str, Any] = {name: (strictly(kind), default) for name, (kind, default) in options.items()}
    name = getattr(target, "__name__", "Options")
    return create_model(
        name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=()), **fields
    )


def option_faults(
    target: Target,
    given: Mapping[str, object],
    where: str,
    *,
    skip: Sequence[str] = (),
    extra: Mapping[str, object] | None = None,
) -> list[Fault]:
    """Returns what is wrong with `given` as options of `target`: unknown names, wrong types, values
    it refuses itself."""
    model = options_model(target, skip=skip, extra=extra)
    try:
        parsed = model.model_validate(dict(given))
    except ValidationError as error:
        return validation_faults(error, model, prefix=where)
    if dataclasses.is_dataclass(target) and isinstance(target, type):
        values = {name: getattr(parsed, name) for name in model.model_fields if name not in (extra or {})}
        try:
            _assembled(target, values)
        except (ValueError, TypeError) as error:
            return [fault_from(error, where, given)]
    return []


_FIELD = re.compile(r"^(?:[A-Za-z_][\w]*\.)*(?P<field>[A-Za-z_]\w*)\b[:.]?\s*(?P<rest>.*)$")
_VALUE = re.compile(r"^(?P<value>.+?) is not allowed; (?:allowed are |give )?(?P<allowed>.+)$")
_REPEATED = re.compile(r"^.+? is not allowed\b")  # a fault names its value itself


def fault_from(error: Exception, where: str, given: Mapping[str, object]) -> Fault:
    """Returns an error's first line as a fault of the option that the line begins with, where it
    begins with one."""
    text = _first_line(error)
    match = _FIELD.match(text)
    if not match or match["field"] not in given:
        path, _, problem = text.partition(": ")
        # The text names an option that was left at its default: the others say nothing of it.
        return Fault(path, UNSAID, problem) if path.startswith(f"{where}.") else Fault(where, dict(given), text)
    field = match["field"]
    told = _VALUE.match(match["rest"])
    if told:
        return Fault(f"{where}.{field}", given[field], "not allowed", told["allowed"])
    if match["rest"].startswith(repr(given[field])):
        return Fault(f"{where}.{field}", UNSAID, match["rest"])
    return Fault(f"{where}.{field}", given[field], _REPEATED.sub("not allowed", match["rest"]) or text)


def build(target: Callable[..., B], given: Mapping[str, object]) -> B:
    """Returns `target(**given)` with the values coerced to the declared types, as the check coerced
    them."""
    model = options_model(target)
    parsed = model.model_validate(dict(given))
    return _assembled(target, {name: getattr(parsed, name) for name in model.model_fields})


def _assembled(target: Callable[..., B], values: Mapping[str, object]) -> B:
    """Returns `target` made from flat values: a field that is itself a dataclass is made from those
    it has."""
    given = dict(values)
    for item in dataclasses.fields(target) if dataclasses.is_dataclass(target) else ():
        if dataclasses.is_dataclass(item.default_factory):
            inner = [each.name for each in dataclasses.fields(item.default_factory) if each.name in given]
            given[item.name] = item.default_factory(**{name: given.pop(name) for name in inner})
    return target(**given)


def method_of(name: str, given: Mapping[str, object]) -> Method:
    """Returns the method `name` with these options, older spellings among them.

    **Raises:** `ValueError` or pydantic's `ValidationError` where an option is not allowed.
    """
    kind, options = METHODS[name].translate(given)
    return build(kind, options)


def canonical_params(target: Target, given: Mapping[str, object]) -> dict[str, Json]:
    """Returns every option of the dataclass `target` with defaults filled in, as plain JSON data,
    for hashing."""
    return settings_of(build(target, given))


def canonical_options(target: Target, given: Mapping[str, object], each: Each | None = None) -> dict[str, Json]:
    """Returns the options that are given, checked before, in the types that `target` declares: one
    spelling for one value.

    **Arguments:** `each`: applies a conversion to a value that stands for several; without it
    values are single.
    """
    known = options_of(target)
    found: dict[str, Json] = {}
    for name, value in given.items():
        convert = _converter(target, name) if name in known else plain
        found[name] = plain(convert(value) if each is None else each(value, convert))
    return found


Convert: TypeAlias = Callable[[object], object]
Each: TypeAlias = Callable[[object, Convert], object]


@lru_cache(maxsize=1024)
def _converter(target: Target, name: str) -> Convert:
    config = ConfigDict(arbitrary_types_allowed=True)
    return TypeAdapter(strictly(options_of(target)[name][0]), config=config).validate_python


def settings_of(settings: object) -> dict[str, Json]:
    """Returns the values of a dataclass of settings as plain JSON data, as they enter a unit's key.

    A field with `metadata={"since": 2}`, or later, came after the first version. It is left out
    while it is at its default. A class attribute `retired` names fields that are gone, with the
    values that they had.
    """
    found: dict[str, Json] = dict(getattr(settings, "retired", {}))
    for item in dataclasses.fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, item.name)
        if dataclasses.is_dataclass(value):
            found |= settings_of(value)  # settings of settings stand beside the others
        elif "since" not in item.metadata or value != item.default:
            found[item.name] = plain(value)
    return found


def validation_faults(error: ValidationError, model: type[BaseModel], prefix: str = "") -> list[Fault]:
    """Returns pydantic's complaints as faults with field, value, what is allowed and the nearest
    spelling."""
    found: dict[str, Fault] = {}
    for item in error.errors():
        location = _trim(item["loc"])
        short = item["type"] == "missing" and isinstance(location[-1], int)
        if short:  # a list of fixed length: what is wrong is the list
            location = location[:-1]
        field = ".".join(str(part) for part in ((prefix,) if prefix else ()) + location)
        if item["type"] == "extra_forbidden":
            names = [name for name, field in _model_at(model, location[:-1]).model_fields.items() if field.repr]
            fault = Fault(field, item["input"], "unknown key", ", ".join(names), nearest(str(location[-1]), names))
        elif short or item["type"] in ("too_long", "string_pattern_mismatch"):
            # What is allowed is no bound that pydantic could tell: the field's description says it.
            option = _model_at(model, location[:-1]).model_fields.get(str(location[-1]))
            told = option.description if option is not None and option.description else item["msg"]
            fault = Fault(field, item["input"], NOT_ALLOWED, told)
        elif item["type"] == "missing":
            fault = Fault(field, None, "missing", "a value is needed")
        else:
            fault = Fault(field, item["input"], *_told(item))
            expected = item.get("ctx", {}).get("expected")
            if isinstance(expected, str) and isinstance(item["input"], str):
                choices = [part.strip().strip("'") for part in expected.replace(" or ", ", ").split(",")]
                fault = dataclasses.replace(fault, suggestion=nearest(item["input"], choices))
        # A union reports one complaint for each of its members: one line a field is enough.
        if field in found:
            first = found[field]
            allowed = " or ".join(dict.fromkeys(text for text in (first.allowed, fault.allowed) if text))
            found[field] = dataclasses.replace(first, allowed=allowed)
        else:
            found[field] = fault
    # Of a value and a part of it, the part says more.
    return [_needed(f) for name, f in found.items() if not any(other.startswith(f"{name}.") for other in found)]


NEEDED, NOT_ALLOWED = "is needed", "not allowed"


def _needed(fault: Fault) -> Fault:
    """Says of a value of another type what is needed; a union says all that it takes."""
    if fault.problem != NEEDED:
        return fault
    return dataclasses.replace(fault, problem=f"{fault.allowed} {NEEDED}", allowed="")


_UNION_PARTS = (
    "int",
    "float",
    "str",
    "bool",
    "dict[",
    "list[",
    "tuple[",
    "literal[",
    "function-",
    "nullable",
    "constrained-",
    "is-instance",
    "[key]",
)


def _trim(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Drops the names of union members, and the word for keys, that pydantic appends to a
    location."""
    return tuple(
        part for i, part in enumerate(location) if i == 0 or isinstance(part, int) or not part.startswith(_UNION_PARTS)
    )


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """Returns the section at a place; the last one above it where there is none."""
    for part in location:
        field = model.model_fields.get(str(part))
        if field is None:
            continue
        # An optional section: the model in `Model | None`.
        kinds = (field.annotation, *typing.get_args(field.annotation))
        model = next((kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, BaseModel)), model)
    return model


_TYPES = {
    "int_parsing": "an integer",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "finite_number": "a finite number",
    "int_parsing_size": "a smaller integer",
    "invalid_key": "a text",
    "tuple_type": "a list",
    "none_required": "null",
    "model_type": "a mapping",
}


_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def _told(item: ErrorDetails) -> tuple[str, str]:
    """Returns what is wrong with a value and what is allowed, in our words, not in pydantic's."""
    context, said = item.get("ctx", {}), _first_line(item["msg"])
    if item["type"] in _TYPES:
        return NEEDED, _TYPES[item["type"]]
    if "expected" in context:
        return NOT_ALLOWED, str(context["expected"])
    for key, words in _BOUNDS.items():
        if key in context:
            return NOT_ALLOWED, f"{words} {context[key]}"
    if item["type"] == "value_error":  # the text is ours
        return (NEEDED, said.removesuffix(f" {NEEDED}")) if said.endswith(f" {NEEDED}") else (said, "")
    return NOT_ALLOWED, said.removeprefix("Input should be ").removeprefix("Input should ")


def _first_line(problem: object) -> str:
    return first_line(problem).removeprefix("Value error, ")
