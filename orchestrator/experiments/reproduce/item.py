"""What an item of the reproduction is: experiments to run, a table beside the published one, figures, and claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...report.figures.drawing import Figure
from .claims import Claim
from .measure import Experiment, Quantity

Experiments = Mapping[str, Experiment]
SIZES = ("mini", "paper")


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
    """Measured beside published. A cell is a text, a number, a `Quantity`, or None where there is nothing."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""
    digits: int = 2

    def texts(self) -> list[list[str]]:
        """Returns every cell as text, a dash where there is nothing."""
        return [[cell_text(cell, self.digits) for cell in row] for row in self.rows]


def cell_text(cell: Any, digits: int) -> str:
    """Returns a cell as text."""
    if cell is None:
        return "–"
    if isinstance(cell, Quantity):
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
