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
    - `code_allowed`: whether `package.module:Class` is a name too, which imports that code.
    """

    def __init__(self, group: str, base: str, built_in: Mapping[str, str]):
        self.group = group
        self._base = base
        self._built_in = dict(built_in)
        self.code_allowed = False

    def problem(self, name: str) -> str:
        """Returns what stands in the way of `package.module:Class`, in one line; nothing where it
        can be had."""
        if not self.code_allowed:
            return "would import and run code of your own"
        try:
            self[name]
        except Exception as error:  # whatever the code of a user raises when it is imported
            line = (str(error).strip().splitlines() or [""])[0]
            return f"cannot be imported ({type(error).__name__}: {line})"
        return ""

    def _targets(self) -> dict[str, str]:
        added = {entry.name: entry.value for entry in entry_points(group=self.group)}
        return {**added, **self._built_in}

    def __getitem__(self, name: str) -> type[T]:
        # Built-in names first: looking through every installed package takes 50 ms.
        target = self._built_in.get(name)
        if target is not None:
            return _load(target)
        target = name if ":" in name and self.code_allowed else self._targets()[name]
        found, base = _load(target), _load(self._base)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise TypeError(
                f"{self.group}: {name!r} is {target}, which is not a subclass of {base.__module__}.{base.__name__}; "
                "derive the class from it"
            )
        return found

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str) and ":" in name:
            return not self.problem(name)
        return isinstance(name, str) and (name in self._built_in or name in self._targets())

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets())

    def __len__(self) -> int:
        return len(self._targets())


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
