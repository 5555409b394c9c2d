"""The command line with one coarse figure in each report: `python -m tests.few_figures run …`.

Drawing them all takes longer than a tiny run. `tests/report` looks at every figure.
"""

from __future__ import annotations

import pytest

from orchestrator.commands.cli import console
from orchestrator.report import write
from orchestrator.report.figures import drawing


def lessen(patch: pytest.MonkeyPatch) -> None:
    """Has reports of this process draw one figure, at few dots an inch."""
    everything = write.draw
    patch.setattr(drawing, "PNG_DPI", 50)
    patch.setattr(write, "draw", lambda report: [figure for figure in everything(report) if figure.name == "auc"])


if __name__ == "__main__":
    lessen(pytest.MonkeyPatch())
    console()
