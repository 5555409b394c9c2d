"""XGBoost and SciPy, imported when they are first used.

XGBoost takes a second to import and SciPy half of one, on a cold machine many. Most workers and
commands need neither.
"""

from __future__ import annotations

from types import ModuleType


def load_xgboost() -> ModuleType:
    """Returns the package `xgboost`."""
    import xgboost

    return xgboost


def load_special() -> ModuleType:
    """Returns `scipy.special`, the distribution functions."""
    from scipy import special

    return special
