"""Where an attacker is fitted. It stands alone: what fits on workers takes seconds to import."""

from __future__ import annotations

from attack.library import load_xgboost


def choose_path(rows: int, threshold: int) -> str:
    """Returns `distributed` from `threshold` rows on, else `in_process`."""
    return "distributed" if rows >= threshold else "in_process"


def knows_gpus() -> bool:
    """Says whether XGBoost is built for GPUs here."""
    xgboost = load_xgboost()
    return bool(xgboost.build_info().get("USE_CUDA"))
