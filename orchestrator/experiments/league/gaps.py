"""Two numbers that papers give beside attacks: the average gap to Retrain, and the tug of war."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from attack.metrics.measure import Measure, mean_measure
from attack.metrics.row import RETRAIN, Row

ERRORS = ("error_forget", "error_retain", "error_test")


def average_gap(row: Row, retrain: Row, attack: str = "auc") -> Measure:
    """Returns the mean distance to Retrain of the errors on D_f, D_r and test, and of the attack's
    AUC, in percentage points. It is 0 for a model that is like Retrain in all four.

    As in l1-sparse and SalUn (NeurIPS 2023, ICLR 2024), with the AUC in place of their attack's
    accuracy. Each of Retrain's own models is held against the others.
    """
    names = (*ERRORS, attack)
    scales = {attack: 100.0}
    return _by_model(
        row, retrain, names, lambda gaps: float(np.mean([g * scales.get(n, 1.0) for n, g in gaps.items()]))
    )


def tug_of_war(row: Row, retrain: Row) -> Measure:
    """Returns the product of 1 − |accuracy − Retrain's accuracy| on D_f, D_r and test, in [0, 1]; 1
    is best (Zhao et al., NeurIPS 2024).
    """
    return _by_model(row, retrain, ERRORS, lambda gaps: float(np.prod([1.0 - g / 100.0 for g in gaps.values()])))


def _by_model(
    row: Row, retrain: Row, names: tuple[str, ...], combine: Callable[[Mapping[str, float]], float]
) -> Measure:
    tables = {name: row[name].by_model for name in names}
    theirs = {name: retrain[name].by_model for name in names}
    if any(not table for table in (*tables.values(), *theirs.values())):
        return Measure(None)
    models = [model for model in tables[names[0]] if all(model in table for table in tables.values())]
    found: dict[str, float] = {}
    for model in models:
        gaps = {}
        for name in names:
            others = _others(theirs[name], model if row.method == RETRAIN else None)
            if not others:
                return Measure(None)
            gaps[name] = abs(tables[name][model] - float(np.mean(others)))
        found[model] = combine(gaps)
    return mean_measure(found, 0.0)


def _others(table: Mapping[str, float], model: str | None) -> list[float]:
    return [value for name, value in table.items() if name != model]
