"""The figures of a report, drawn from results alone."""

from __future__ import annotations

import logging

# Matplotlib warns of its cache where there is no home folder. That is no concern of a reader of
# results. It warns while it is imported, so this comes first.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
