"""YAML 1.2, strictly: a key twice is an error, `yes` is a text, `1e-2` is a number, `010` is
ten."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from functools import cached_property

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode
from ruamel.yaml.resolver import VersionedResolver

from .errors import first_line
from .values import Json

MOST_NODES = 100_000
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class YamlFault(ValueError):
    """Text that is not YAML, or says what plain data cannot."""


class _Resolver(VersionedResolver):
    """Dates stay texts: JSON has none."""

    @cached_property
    def versioned_resolver(self) -> object:
        known = super().versioned_resolver
        return {first: [rule for rule in rules if rule[0] != _TIMESTAMP] for first, rules in known.items()}


def load(text: str) -> Json:
    """Returns the plain data that a YAML document holds; an empty document is None.

    **Raises:** `YamlFault` saying what is wrong and where: one line.
    """
    reader = YAML(typ="safe", pure=True)
    reader.Resolver = _Resolver
    reader.version = (1, 2)
    try:
        document = reader.load(text)
    except DuplicateKeyError as error:
        raise YamlFault(f"{_duplicate(error, text)} is there twice ({_place(error)})") from None
    except MarkedYAMLError as error:
        raise YamlFault(f"not readable as YAML at {_place(error)}: {error.problem or 'not YAML'}") from None
    except (YAMLError, ValueError) as error:
        raise YamlFault(f"not readable as YAML: {first_line(error)}") from None
    except RecursionError:
        raise YamlFault("nested too deep; a few levels are allowed") from None
    return _checked(document)


def dump(document: object, width: int = 100) -> str:
    """Returns `document`, plain data, as YAML that `load` reads back."""
    writer = YAML(typ="safe", pure=True)
    writer.version = None
    writer.default_flow_style = False
    writer.allow_unicode = True
    writer.width = width
    writer.representer.sort_base_mapping_type_on_output = False
    text = io.StringIO()
    writer.dump(document, text)
    return text.getvalue()


def _place(error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else "an unknown place"


def _duplicate(error: DuplicateKeyError, text: str) -> str:
    """Returns the key that is there twice, with the keys that lead to it."""
    spot = error.problem_mark
    left: list[tuple[str, Node]] = [("", YAML(typ="safe", pure=True).compose(text))]
    while left:
        where, node = left.pop()
        if isinstance(node, MappingNode):
            for key, value in node.value:
                path = f"{where}.{key.value}" if where else str(key.value)
                if (key.start_mark.line, key.start_mark.column) == (spot.line, spot.column):
                    return path
                left.append((path, value))
        elif isinstance(node, SequenceNode):
            left += [(f"{where}.{place}" if where else str(place), part) for place, part in enumerate(node.value)]
    return "a key"


def _checked(document: object) -> Json:
    """Refuses what a few lines can grow into by aliases of aliases, and values that JSON does not
    have."""
    left: list[tuple[str, object]] = [("", document)]
    count = 0
    while left:
        where, node = left.pop()
        count += 1
        if count > MOST_NODES:
            raise YamlFault(f"more than {MOST_NODES:,} values; give fewer, and no aliases of aliases")
        if isinstance(node, Mapping):
            for key in node:
                if not isinstance(key, str | int) or isinstance(key, bool):
                    raise YamlFault(f"{where or 'the document'}: {key!r} is not allowed as a key; give a text")
            left += [(f"{where}.{key}" if where else str(key), value) for key, value in node.items()]
        elif isinstance(node, list):
            left += [(f"{where}.{place}" if where else str(place), value) for place, value in enumerate(node)]
        elif isinstance(node, float) and not math.isfinite(node):
            raise YamlFault(f"{where or 'the value'}: {node} is not allowed; give a finite number")
        elif node is not None and not isinstance(node, str | bool | int | float):
            raise YamlFault(f"{where or 'the value'}: a {type(node).__name__} is not allowed; give a number or a text")
    return _with_text_keys(document)


def _with_text_keys(node: object) -> Json:
    if isinstance(node, Mapping):
        return {str(key): _with_text_keys(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_text_keys(value) for value in node]
    return node  # type: ignore[return-value]
