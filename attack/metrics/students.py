"""Student's t and what goes with it: quantiles, degrees of freedom, relabelled models, and Holm's
correction for many tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..library import load_special


def quantile(freedom: float, level: float) -> float:
    """Returns the value that Student's t stays below with the chance `level`."""
    return float(load_special().stdtrit(freedom, level))


def added(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Returns the sum of independent (variance, degrees of freedom), and the degrees of freedom of
    the sum. Source: Satterthwaite, Biometrics Bulletin 2 (1946)."""
    total = sum(variance for variance, _ in parts)
    squares = sum(variance**2 / freedom for variance, freedom in parts)
    return total, total**2 / squares if squares > 0.0 else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number, in the order given. Source: Holm, Scandinavian
    Journal of Statistics 6 (1979)."""
    order = np.argsort(p_values, kind="stable")
    corrected, least = [0.0] * len(order), 0.0
    for place, index in enumerate(order):
        least = min(1.0, max(least, (len(order) - place) * float(p_values[index])))
        corrected[int(index)] = least
    return corrected


def relabelled(mine: int, theirs: int, draws: int, seed: int) -> np.ndarray:
    """Returns which models are of the first group: 1 for those, float64 `(1 + draws, models)`. The
    first row is the truth, the others are drawn with groups of the same sizes."""
    chosen = np.zeros((1 + draws, mine + theirs))
    chosen[0, :mine] = 1.0
    places = np.argsort(np.random.default_rng(seed).random((draws, mine + theirs)), axis=1)[:, :mine]
    np.put_along_axis(chosen[1:], places, 1.0, axis=1)
    return chosen
