"""Membership-inference attacks and their metrics on Arrow tables of model outputs. Needs Arrow, NumPy and XGBoost only.

Names are loaded on first use, so that ``import attack`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "ATTACKS": "attack.registry",
    "XGBoostAttack": "attack.xgboost_attack",
    "tune": "attack.xgboost_attack",
    "LiRA": "attack.lira",
    "ULiRA": "attack.u_lira",
    "RMIA": "attack.rmia",
    "LossThreshold": "attack.thresholds",
    "EntropyThreshold": "attack.thresholds",
    "KLoM": "attack.klom",
    "ForgettingQuality": "attack.forgetting_quality",
    "DIVERGENCES": "attack.divergence",
    "OUTPUTS_SCHEMA": "attack.outputs",
    "outputs_table": "attack.outputs",
    "roc": "attack.metrics",
    "auc": "attack.metrics",
    "evaluate": "attack.evaluation",
    "Scores": "attack.evaluation",
    "paired_difference": "attack.evaluation",
    "run_attacks": "attack.audit",
    "read_outputs": "attack.readers",
    "read_logits": "attack.readers",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'attack' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
