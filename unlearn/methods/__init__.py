"""Unlearning methods. A new one is a file beside these and one line in `_BUILT_IN`."""

from __future__ import annotations

from typing import Any

from ..core.errors import IncompatibleMoments, MethodDidNothing, UnlearnError, UnlearnTooFast
from ..core.registry import Registry
from .base import Card, Choice, Method, Needs, Preset, Range, Steps, UnlearnResult

_BUILT_IN = {
    "pgu": "unlearn.methods.pgu.pgu:PGU",
    "pgu_depoison": "unlearn.methods.pgu.pgu:DepoisonPGU",
    "pgu_incremental": "unlearn.methods.pgu.incremental:IncrementalPGU",
    "eu_k": "unlearn.methods.last_layers:EUk",
    "cf_k": "unlearn.methods.last_layers:CFk",
    "finetune": "unlearn.methods.finetune:Finetune",
    "scrub": "unlearn.methods.scrub:SCRUB",
    "ssd": "unlearn.methods.ssd:SSD",
    "retrain": "unlearn.methods.retrain:Retrain",
}


METHODS: Registry[type[Method]] = Registry("unlearn.methods", _BUILT_IN)

# Classes that can be imported from here, each on first use.
_CLASSES = {target.rpartition(":")[2]: name for name, target in _BUILT_IN.items()}

__all__ = [
    "METHODS",
    "Card",
    "Choice",
    "IncompatibleMoments",
    "Method",
    "MethodDidNothing",
    "Needs",
    "Preset",
    "Range",
    "Steps",
    "UnlearnError",
    "UnlearnResult",
    "UnlearnTooFast",
    *_CLASSES,
]


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return METHODS[_CLASSES[name]]
    raise AttributeError(f"module 'unlearn.methods' has no attribute {name!r}")
