"""Tables, figures and the page of an experiment, from `results.json` and `curves.json` alone.

Equal input gives equal files, byte for byte: nothing here knows the time, the machine or an order
other than the rows' own.

Names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib

_EXPORTS = {
    "table": "orchestrator.report.show",
    "terminal_table": "orchestrator.report.show",
    "write_report": "orchestrator.report.write",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> object:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'orchestrator.report' has no attribute {name!r}")
