"""Names of things that a recipe can ask for:

the ones built in, and those that other packages add.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Names to classes or functions, each imported when it is first asked for.

    **Arguments:**

    - `group`: the entry-point group through which other packages add names, such as
        `unlearn.methods`.
    - `built_in`: name → `package.module:attribute`. A built-in name cannot be replaced from
        outside.
    """

    def __init__(self, group: str, built_in: Mapping[str, str]) -> None:
        self.group = group
        self.built_in = dict(built_in)

    def _targets(self) -> dict[str, str]:
        added = {entry.name: entry.value for entry in entry_points(group=self.group)}
        return {**added, **self.built_in}

    def __getitem__(self, name: str) -> T:
        # Built-in names first: looking through every installed package takes 50 ms.
        module, _, attribute = (self.built_in.get(name) or self._targets()[name]).partition(":")
        found: T = getattr(importlib.import_module(module), attribute)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self._targets()

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets())

    def __len__(self) -> int:
        return len(self._targets())
