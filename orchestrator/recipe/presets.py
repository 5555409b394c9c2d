"""Shorthands in a recipe's methods, written out before anything else is looked at.

`preset: NAME` stands for published settings, `name: all` for every method that fits the scenario.
"""

from __future__ import annotations

from collections.abc import Mapping

from unlearn import METHODS, Scenario

from ..base.errors import Fault, nearest
from .options import options_of

EVERY = "all"


def write_out(document: dict[str, object], found: list[Fault]) -> dict[str, object]:
    """Returns the recipe with its shorthands written out. Faults are added to `found`."""
    return fill_in(_every_method(document, found), found)


def _every_method(document: dict[str, object], found: list[Fault]) -> dict[str, object]:
    """Writes out `name: all`: each method of this package that fits the scenario and that the
    recipe does not name, with its default settings."""
    methods, scenario = document.get("methods"), document.get("scenario")
    if not isinstance(methods, list):
        return document
    names = [settings.get("name") if isinstance(settings, Mapping) else None for settings in methods]
    kind = scenario.get("kind", Scenario.kind) if isinstance(scenario, Mapping) else Scenario.kind
    written: list[object] = []
    for index, settings in enumerate(methods):
        if names[index] != EVERY:
            written.append(settings)
            continue
        extra = [key for key in settings if key != "name"]
        if extra:
            found.append(
                Fault(f"methods.{index}.{extra[0]}", settings[extra[0]], "all takes no options", "name the method")
            )
        for name in METHODS.built_in:
            if name in names or not METHODS[name].selectable or not METHODS[name].fits(str(kind)):
                continue
            needed = [option for option, (_, default) in options_of(METHODS[name]).items() if default is ...]
            if needed:
                allowed = f"a line of its own, such as {{name: {name}, {needed[0]}: …}}"
                found.append(Fault(f"methods.{index}.name", EVERY, f"{name} has no default {needed[0]}", allowed))
            else:
                written.append({"name": name})
    return {**document, "methods": written}


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
