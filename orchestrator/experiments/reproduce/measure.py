"""Finished experiments, read as rows and curves: what verdicts on claims are computed from."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attack.metrics.measure import Measure
from attack.metrics.row import Row

from ...base.documents import Curves
from ...base.values import Record


@dataclass(frozen=True)
class Experiment:
    """A finished experiment's rows and curves."""

    name: str
    rows: Sequence[Row]
    curves: Curves
    environment: Record
    recipe: Record
    folder: Path

    @classmethod
    def load(cls, name: str, folder: Path) -> Experiment:
        """Reads the output folder of a run.

        **Raises:** `OSError` or `ValueError` where it cannot be read.
        """
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        curves = json.loads((folder / "curves.json").read_text(encoding="utf-8"))
        rows = [Row.from_json(row, experiment=name) for row in results["rows"]]
        return cls(name, rows, curves, results["environment"], results["recipe"], folder)

    def find(self, method: str, **params: object) -> Row | None:
        """Returns the first row of a method whose parameters are these."""
        for row in self.rows:
            if row.method == method and all(_same(row.params.get(k), v) for k, v in params.items()):
                return row
        return None

    def sweep(self, method: str, name: str) -> list[tuple[Any, Row]]:
        """Returns (value, row) for each row of a method that gives the parameter `name`, by rising
        value.
        """
        found = [(row.params[name], row) for row in self.rows if row.method == method and name in row.params]
        return sorted(found, key=lambda item: item[0])


def measure(row: Row | None, metric: str) -> Measure:
    """Returns a metric of a row; one without a value where there is no such row or it was not
    measured.
    """
    return Measure(None) if row is None else row[metric]


def _same(given: object, wanted: object) -> bool:
    if isinstance(given, int | float) and isinstance(wanted, int | float):
        return math.isclose(given, wanted, rel_tol=1e-9)
    return bool(given == wanted)
