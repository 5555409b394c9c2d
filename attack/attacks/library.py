"""XGBoost, imported when it is first used. The import takes a second, on a cold machine seven, and
most users of an attack's options never train.
"""

from __future__ import annotations

from types import ModuleType


def load_xgboost() -> ModuleType:
    """Returns the package `xgboost`."""
    import xgboost

    return xgboost
