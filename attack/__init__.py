"""Membership-inference attacks and their metrics on Arrow tables of model outputs. Needs Arrow,
NumPy and XGBoost only.

Names are loaded on first use, so that ``import attack`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "ATTACKS": "attack.attacks.registry",
    "Attack": "attack.attacks.base",
    "Fitted": "attack.attacks.base",
    "XGBoostAttack": "attack.attacks.xgboost",
    "tune": "attack.attacks.xgboost",
    "LiRA": "attack.attacks.lira",
    "ULiRA": "attack.attacks.u_lira",
    "RMIA": "attack.attacks.rmia",
    "OneShadow": "attack.attacks.one_shadow",
    "Gap": "attack.attacks.gap",
    "LossThreshold": "attack.attacks.thresholds",
    "EntropyThreshold": "attack.attacks.thresholds",
    "KLoM": "attack.distances.klom",
    "ForgettingQuality": "attack.distances.forgetting_quality",
    "DIVERGENCES": "attack.distances.base",
    "OUTPUTS_SCHEMA": "attack.outputs.table",
    "outputs_table": "attack.outputs.table",
    "roc": "attack.metrics.roc",
    "auc": "attack.metrics.roc",
    "evaluate": "attack.metrics.evaluation",
    "Scores": "attack.metrics.evaluation",
    "paired_difference": "attack.metrics.evaluation",
    "run_attacks": "attack.audit.audit",
    "read_outputs": "attack.outputs.readers",
    "read_logits": "attack.outputs.mapping",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'attack' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
