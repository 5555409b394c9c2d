"""Names to classes: the built-in ones, and those that other packages add by an entry point."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """Classes by name. A class is imported when it is first asked for.

    **Arguments:**

    - `group`: the entry-point group that other packages add to. Built-in names cannot be replaced.
    - `base`: what every class derives from, as `module:Class`.
    - `built_in`: name → `module:Class`.
    """

    def __init__(self, group: str, base: str, built_in: Mapping[str, str]):
        self.group = group
        self._base = base
        self._built_in = dict(built_in)

    def _targets(self) -> dict[str, str]:
        added = {entry.name: entry.value for entry in entry_points(group=self.group)}
        return {**added, **self._built_in}

    def __getitem__(self, name: str) -> type[T]:
        # Built-in names first: looking through every installed package takes 50 ms.
        target = self._built_in.get(name)
        if target is not None:
            return _load(target)
        target = self._targets()[name]
        found, base = _load(target), _load(self._base)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise TypeError(
                f"{self.group}: {name!r} is {target}, which is not a subclass of {base.__module__}.{base.__name__}; "
                "derive the class from it"
            )
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or name in self._targets()

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets())

    def __len__(self) -> int:
        return len(self._targets())


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
