"""Quantities with intervals, read from finished experiments: what verdicts are computed from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FEWEST_MODELS = 3


@dataclass(frozen=True)
class Quantity:
    """A measured number with its 95 % interval; the interval is None where one model measured it.

    `by_model` holds the value of each model, in the order of the originals: what paired differences are taken over.
    """

    value: float
    interval: tuple[float, float] | None = None
    by_model: tuple[float, ...] = ()
    paired: bool = True

    @property
    def low(self) -> float:
        return self.interval[0] if self.interval else -math.inf

    @property
    def high(self) -> float:
        return self.interval[1] if self.interval else math.inf

    def minus(self, other: Quantity) -> Quantity:
        """Returns the difference, model by model where both were measured on the same originals, else of the two means."""
        mine, theirs = np.asarray(self.by_model), np.asarray(other.by_model)
        from attack.metrics.t_intervals import difference_interval, mean_interval

        value = self.value - other.value
        if self.paired and other.paired and len(mine) == len(theirs) >= FEWEST_MODELS:
            apart = mine - theirs
            return Quantity(value, _pair(mean_interval(apart)), tuple(apart.tolist()))
        if min(len(mine), len(theirs)) >= FEWEST_MODELS:
            return Quantity(value, _pair(difference_interval(mine, theirs)))
        if self.interval and other.interval:
            return Quantity(value, (self.low - other.high, self.high - other.low))
        return Quantity(value)

    def text(self, digits: int = 2) -> str:
        """Returns `value [low, high]`."""
        shown = f"{self.value:.{digits}f}"
        return f"{shown} [{self.low:.{digits}f}, {self.high:.{digits}f}]" if self.interval else shown


def _pair(bounds: Sequence[float]) -> tuple[float, float]:
    return bounds[0], bounds[1]


@dataclass(frozen=True)
class Experiment:
    """A finished experiment's rows and curves."""

    name: str
    rows: Sequence[Mapping[str, Any]]
    curves: Mapping[str, Any]
    environment: Mapping[str, Any]
    recipe: Mapping[str, Any]
    folder: Path

    @classmethod
    def load(cls, name: str, folder: Path) -> Experiment:
        """Reads the output folder of a run; raises OSError or ValueError where it cannot be read."""
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        curves = json.loads((folder / "curves.json").read_text(encoding="utf-8"))
        return cls(name, results["rows"], curves, results["environment"], results["recipe"], folder)

    def find(self, method: str, **params: Any) -> Mapping[str, Any] | None:
        """Returns the first row of a method whose parameters are these."""
        for row in self.rows:
            given = row["params"]
            if row["method"] == method and all(_same(given.get(k), v) for k, v in params.items()):
                return row
        return None

    def sweep(self, method: str, name: str) -> list[tuple[Any, Mapping[str, Any]]]:
        """Returns (value, row) for each row of a method that gives the parameter `name`, by rising value."""
        found = [(row["params"][name], row) for row in self.rows if row["method"] == method and name in row["params"]]
        return sorted(found, key=lambda item: item[0])


def quantity(row: Mapping[str, Any] | None, metric: str) -> Quantity | None:
    """Returns a metric of a row; None where there is no such row or it was not measured."""
    if row is None or row["metrics"].get(metric) is None:
        return None
    by_model = tuple(row.get("by_model", {}).get(metric, ()))
    # The AUC's bootstrap over two models covers far too seldom (docs/LOG.md): no verdict is built on it.
    bounds = row["ci"].get(metric) if row.get("models", 0) >= FEWEST_MODELS else None
    # Retrain's models are others: their differences to a method's cannot be taken pair by pair.
    return Quantity(
        float(row["metrics"][metric]),
        (float(bounds[0]), float(bounds[1])) if bounds else None,
        by_model,
        paired=row["method"] != "retrain",
    )


def _same(given: Any, wanted: Any) -> bool:
    if isinstance(given, int | float) and isinstance(wanted, int | float):
        return math.isclose(given, wanted, rel_tol=1e-9)
    return bool(given == wanted)
