"""The command line with one coarse figure in each report: `python -m tests.few_figures run …`.

Drawing them all takes longer than a tiny run. `tests/report` looks at every figure.
"""

from __future__ import annotations

import pytest

from orchestrator.commands.cli import console
from orchestrator.report.figures import drawing, figures


def lessen(patch: pytest.MonkeyPatch) -> None:
    """Has reports of this process draw one figure, at few dots an inch."""
    everything = figures.draw
    patch.setattr(drawing, "PNG_DPI", 50)
    patch.setattr(figures, "draw", lambda report: [f for f in everything(report) if f.name == "auc"])


if __name__ == "__main__":
    lessen(pytest.MonkeyPatch())
    console()
