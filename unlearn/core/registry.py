"""Names of things that a recipe can ask for:

the ones built in, and those that other packages add.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Names to classes or functions, each imported when it is first asked for.

    **Arguments:**

    - `group`: the entry-point group through which other packages add names, such as
        `unlearn.methods`.
    - `built_in`: name → `package.module:attribute`. A built-in name cannot be replaced from
        outside.
    - `base`: what a class that is named by its code must derive from, as `module:Class`.
    - `code_allowed`: whether `package.module:attribute` is a name too, which imports that code.
    """

    def __init__(self, group: str, built_in: Mapping[str, str], base: str = "") -> None:
        self.group = group
        self.built_in = dict(built_in)
        self.base = base
        self.code_allowed = False

    def _targets(self) -> dict[str, str]:
        added = {entry.name: entry.value for entry in entry_points(group=self.group)}
        return {**added, **self.built_in}

    def problem(self, name: str) -> str:
        """Returns what stands in the way of `package.module:attribute`, in one line; nothing where
        it can be had."""
        if not self.code_allowed:
            return "would import and run code of your own"
        try:
            found = _load(name)
            wanted = _load(self.base) if self.base else object
        except Exception as error:  # whatever the code of a user raises when it is imported
            line = (str(error).strip().splitlines() or [""])[0]
            return f"cannot be imported ({type(error).__name__}: {line})"
        if self.base and not (isinstance(found, type) and issubclass(found, wanted)):
            return f"is no {wanted.__name__}; derive the class from {wanted.__module__}.{wanted.__name__}"
        return ""

    def __getitem__(self, name: str) -> T:
        if ":" in name and self.code_allowed:
            mine: T = _load(name)
            return mine
        # Built-in names first: looking through every installed package takes 50 ms.
        found: T = _load(self.built_in.get(name) or self._targets()[name])
        return found

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str) and ":" in name:
            return not self.problem(name)
        return isinstance(name, str) and (name in self.built_in or name in self._targets())

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets())

    def __len__(self) -> int:
        return len(self._targets())


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
