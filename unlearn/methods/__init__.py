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

_CLASSES = {
    "PGU": "pgu",
    "DepoisonPGU": "pgu_depoison",
    "IncrementalPGU": "pgu_incremental",
    "EUk": "eu_k",
    "CFk": "cf_k",
    "Retrain": "retrain",
}

__all__ = [
    "METHODS",
    "PGU",
    "CFk",
    "Card",
    "Choice",
    "DepoisonPGU",
    "EUk",
    "IncompatibleMoments",
    "IncrementalPGU",
    "Method",
    "MethodDidNothing",
    "Needs",
    "Preset",
    "Range",
    "Retrain",
    "Steps",
    "UnlearnError",
    "UnlearnResult",
    "UnlearnTooFast",
]


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return METHODS[_CLASSES[name]]
    raise AttributeError(f"module 'unlearn.methods' has no attribute {name!r}")
