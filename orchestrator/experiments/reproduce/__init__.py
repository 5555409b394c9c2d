"""The paper's tables and figures, run by shipped recipes and put beside the published numbers.

A new item is one `Item` and one line here.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...base.errors import Fault, RecipeError, nearest
from .ablations import ABLATIONS, EXPLAINING
from .epochs import FIGURE1, FIGURE2, FIGURE3, FIGURE4
from .item import SIZES, Item
from .stress import FIGURE5, FIGURE6, STRESS
from .tables import TABLE1, TABLE2, TABLE3, TABLE4

ITEMS: dict[str, Item] = {
    item.name: item
    for item in (
        *(TABLE1, TABLE2, TABLE3, TABLE4),
        *(FIGURE1, FIGURE2, FIGURE3, FIGURE4, FIGURE5, FIGURE6),
        *ABLATIONS,
        *EXPLAINING,
        *STRESS,
    )
}
# Beside the paper: asked for by name.
BESIDE = (*EXPLAINING, *STRESS)
GROUPS = {
    "all": tuple(name for name, item in ITEMS.items() if item not in BESIDE),
    "ablations": tuple(item.name for item in ABLATIONS),
    "explaining": tuple(item.name for item in EXPLAINING),
    "stress": tuple(item.name for item in STRESS),
}


def chosen(names: Sequence[str]) -> list[Item]:
    """Returns the items that `names` (items or groups) name, each once, in the order of the paper.

    **Raises:** `RecipeError` for a name that is none.
    """
    wanted: set[str] = set()
    faults = []
    for name in names:
        if name not in ITEMS and name not in GROUPS:
            known = [*ITEMS, *GROUPS]
            faults.append(Fault("ITEM", name, "no such table or figure", ", ".join(known), nearest(name, known)))
        wanted.update(GROUPS.get(name, (name,)))
    if faults:
        raise RecipeError(faults, "orchestrator reproduce")
    return [item for name, item in ITEMS.items() if name in wanted]


__all__ = ["GROUPS", "ITEMS", "SIZES", "chosen"]
