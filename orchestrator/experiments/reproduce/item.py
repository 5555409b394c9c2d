"""What an item of the reproduction is: experiments to run, a table beside the published one,
figures, and claims.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from attack.metrics.measure import Measure

from ...report.figures.drawing import Figure
from .claims import Claim, Verdict
from .measure import Experiment

Experiments = Mapping[str, Experiment]
Cell: TypeAlias = "str | float | Measure | None"
SIZES = ("mini", "small", "paper")


@dataclass(frozen=True)
class Run:
    """One experiment: the shipped recipe `<recipe>-<size>`, with values set by size."""

    name: str
    recipe: str
    overrides: Mapping[str, Sequence[str]] | None = None

    def settings(self, size: str) -> list[str]:
        """Returns the `a.b=value` texts of a size."""
        return [f"name={self.name}-{size}", *(self.overrides or {}).get(size, ())]


@dataclass(frozen=True)
class Comparison:
    """Measured beside published. A cell is a text, a number, a `Measure`, or None where there is
    nothing.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    digits: int = 2

    def texts(self) -> list[list[str]]:
        """Returns every cell as text, a dash where there is nothing."""
        return [[cell_text(cell, self.digits) for cell in row] for row in self.rows]


def cell_text(cell: Cell, digits: int) -> str:
    """Returns a cell as text."""
    if cell is None or cell == Measure(None):
        return "–"
    if isinstance(cell, Measure):
        return cell.text(digits)
    return f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell)


@dataclass(frozen=True)
class Item:
    """A table or figure of the paper, or an ablation that it leaves open."""

    name: str
    title: str
    about: str
    runs: tuple[Run, ...]
    compare: Callable[[Experiments], Comparison]
    figures: Callable[[Experiments], list[Figure]]
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What came of an item: its table, the verdict on each claim, where it was measured, or why it
    could not be.
    """

    item: Item
    comparison: Comparison | None
    verdicts: tuple[tuple[str, Verdict], ...]
    experiments: Experiments
    error: str = ""

    @property
    def seconds(self) -> float:
        """Seconds that the stages of the item's experiments took when they ran, with what other
        items had made not counted.
        """
        return sum(_stage_seconds(experiment) for experiment in self.experiments.values())


def _stage_seconds(experiment: Experiment) -> float:
    document = json.loads((experiment.folder / "results.json").read_text(encoding="utf-8"))
    return float(sum(value or 0.0 for value in document["stages"].values()))
