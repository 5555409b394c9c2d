"""Unlearning methods. A new one is a file beside these and one line in `_BUILT_IN`."""

from __future__ import annotations

from typing import Any

from ..core.errors import IncompatibleMoments, MethodDidNothing, UnlearnError, UnlearnTooFast
from ..core.registry import Registry
from .base import Card, Choice, Method, Needs, Preset, Presets, Range, Ranges, Steps, UnlearnResult

_BUILT_IN = {
    "pgu": "unlearn.methods.pgu.pgu:PGU",
    "pgu_depoison": "unlearn.methods.pgu.pgu:DepoisonPGU",
    "pgu_incremental": "unlearn.methods.pgu.incremental:IncrementalPGU",
    "stepwise": "unlearn.methods.stepwise:Stepwise",
    "eu_k": "unlearn.methods.last_layers:EUk",
    "cf_k": "unlearn.methods.last_layers:CFk",
    "finetune": "unlearn.methods.finetune:Finetune",
    "scrub": "unlearn.methods.scrub:SCRUB",
    "ssd": "unlearn.methods.ssd:SSD",
    "grad_ascent": "unlearn.methods.grad_ascent:GradAscent",
    "neggrad_plus": "unlearn.methods.neggrad_plus:NegGradPlus",
    "random_label": "unlearn.methods.random_label:RandomLabel",
    "l1_sparse": "unlearn.methods.l1_sparse:L1Sparse",
    "salun": "unlearn.methods.salun:SalUn",
    "lfssd": "unlearn.methods.lfssd:LFSSD",
    "jit": "unlearn.methods.jit:JIT",
    "boundary_shrink": "unlearn.methods.boundary_shrink:BoundaryShrink",
    "boundary_expand": "unlearn.methods.boundary_expand:BoundaryExpand",
    "fisher": "unlearn.methods.fisher_forgetting:FisherForgetting",
    "wood_fisher": "unlearn.methods.wood_fisher:WoodFisher",
    "negmerge": "unlearn.methods.negmerge:NegMerge",
    "amun": "unlearn.methods.amun:AMUN",
    "sfron": "unlearn.methods.sfron:SFRon",
    "mu_mis": "unlearn.methods.mu_mis:MUMis",
    "ortho_grad": "unlearn.methods.ortho_grad:OrthoGrad",
    "fanchuan": "unlearn.methods.fanchuan:Fanchuan",
    "kookmin": "unlearn.methods.kookmin:Kookmin",
    "seif": "unlearn.methods.seif:Seif",
    "delete": "unlearn.methods.delete:DELETE",
    "bad_teacher": "unlearn.methods.bad_teacher:BadTeacher",
    "lotus": "unlearn.methods.lotus:LoTUS",
    "unsir": "unlearn.methods.unsir:UNSIR",
    "retrain": "unlearn.methods.retrain:Retrain",
}


METHODS: Registry[type[Method]] = Registry("unlearn.methods", _BUILT_IN, "unlearn.methods.base:Method")

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
    "Presets",
    "Range",
    "Ranges",
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
