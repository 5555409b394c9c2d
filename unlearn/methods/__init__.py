"""Unlearning methods. A new one is a file beside these and one line in `_BUILT_IN`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any

from ..core.errors import IncompatibleMoments, MethodDidNothing, UnlearnError, UnlearnTooFast
from .base import Method, UnlearnResult

_BUILT_IN = {
    "pgu": "unlearn.methods.pgu.pgu:PGU",
    "pgu_incremental": "unlearn.methods.pgu.incremental:IncrementalPGU",
    "eu_k": "unlearn.methods.last_layers:EUk",
    "cf_k": "unlearn.methods.last_layers:CFk",
    "retrain": "unlearn.methods.retrain:Retrain",
}


class _Registry(Mapping[str, Any]):
    """Method names to classes: the built-in ones and those of the entry-point group `unlearn.methods`."""

    def _targets(self) -> dict[str, str]:
        third_party = {entry.name: entry.value for entry in entry_points(group="unlearn.methods")}
        return {**third_party, **_BUILT_IN}

    def __getitem__(self, name: str) -> Any:
        # Built-in names first: looking through every installed package takes 50 ms.
        module, _, attribute = (_BUILT_IN.get(name) or self._targets()[name]).partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __contains__(self, name: object) -> bool:
        return name in _BUILT_IN or name in self._targets()

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets())

    def __len__(self) -> int:
        return len(self._targets())


METHODS = _Registry()

_CLASSES = {"PGU": "pgu", "IncrementalPGU": "pgu_incremental", "EUk": "eu_k", "CFk": "cf_k", "Retrain": "retrain"}

__all__ = [
    "METHODS",
    "PGU",
    "CFk",
    "EUk",
    "IncompatibleMoments",
    "IncrementalPGU",
    "Method",
    "MethodDidNothing",
    "Retrain",
    "UnlearnError",
    "UnlearnResult",
    "UnlearnTooFast",
]


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return METHODS[_CLASSES[name]]
    raise AttributeError(f"module 'unlearn.methods' has no attribute {name!r}")
