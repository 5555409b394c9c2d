"""Where things are, and YAML that refuses what YAML would let pass."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = ROOT / "clusters"


def tool(name: str) -> str:
    """Returns the path of a command that a development dependency installed beside the interpreter."""
    path = Path(sys.executable).parent / name
    assert path.is_file(), f"{name} is missing: install the extra `dev`"
    return str(path)


class _Strict(yaml.SafeLoader):
    """A loader that refuses a key given twice, of which YAML keeps the last without a word."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Any:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return {
        loader.construct_object(key, deep=True): loader.construct_object(value, deep=True) for key, value in node.value
    }


_Strict.add_constructor("tag:yaml.org,2002:map", _mapping)


def load_all(text: str) -> list[Any]:
    """Returns the documents of a YAML text; raises `yaml.YAMLError` where it is not well-formed or repeats a key."""
    return [document for document in yaml.load_all(text, Loader=_Strict) if document is not None]


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every value below `value` with its dotted path, itself first."""
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from walk(inner, f"{path}.{number}")
