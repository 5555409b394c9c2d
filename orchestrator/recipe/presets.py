"""`preset: NAME` of a method: published settings, filled in before anything else is looked at."""

from __future__ import annotations

from collections.abc import Mapping

from unlearn import METHODS

from ..base.errors import Fault, nearest


def fill_in(document: dict[str, object], found: list[Fault]) -> dict[str, object]:
    """Returns the recipe with the values of presets in their place; what a recipe says itself wins.

    The resolved recipe shows the values, so that a preset that changes later changes no experiment.
    Faults are added to `found`.
    """
    methods = document.get("methods")
    if not isinstance(methods, list):
        return document
    filled = []
    for index, settings in enumerate(methods):
        name = settings.get("name") if isinstance(settings, Mapping) else None
        if not isinstance(name, str) or name not in METHODS or "preset" not in settings:
            filled.append(settings)
            continue
        presets, wanted = METHODS[name].presets, settings["preset"]
        rest = {key: value for key, value in settings.items() if key != "preset"}
        if not isinstance(wanted, str) or wanted not in presets:
            allowed = ", ".join(presets) or f"none: {name} has no presets"
            near = nearest(str(wanted), presets)
            found.append(Fault(f"methods.{index}.preset", wanted, "no such preset", allowed, near))
            filled.append(rest)
        else:
            filled.append({"name": name, **presets[wanted].values, **rest})
    return {**document, "methods": filled}
