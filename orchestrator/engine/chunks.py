"""Dividing units among trials: few trials for little overhead, small ones at the end for an even finish."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..units import Unit


def make_chunks(units: Sequence[Unit], slots: int, per_trial: int | None = None) -> list[list[Unit]]:
    """Returns `units` in chunks, one chunk for each trial, largest units first.

    **Arguments:**

    - `units`: units that do not depend on each other.
    - `slots`: how many trials can run at once.
    - `per_trial`: a fixed chunk length; None shrinks the chunks as the work runs out (guided self-scheduling), so that
      n units take about 4·slots·ln(n) trials and the last ones are single.

    Units of one source model stay in one chunk where that leaves enough chunks for all slots: they share its moments.
    """
    groups: dict[str, list[Unit]] = {}
    for unit in sorted(units, key=lambda u: (-u.cost, u.name)):
        shared = str(unit.spec.get("basis", unit.key))
        groups.setdefault(shared, []).append(unit)
    if len(groups) < slots:
        groups = {unit.key: [unit] for unit in units}
    ordered = sorted(groups.values(), key=lambda group: -sum(u.cost for u in group))
    chunks: list[list[Unit]] = []
    position = 0
    while position < len(ordered):
        remaining = len(ordered) - position
        size = per_trial or max(1, math.ceil(remaining / (4 * max(1, slots))))
        chunks.append([unit for group in ordered[position : position + size] for unit in group])
        position += size
    return chunks
