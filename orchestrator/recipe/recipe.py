"""Recipes: typed, strict, from YAML. Everything wrong is found before anything starts, and said in one line each."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from attack import ATTACKS
from unlearn import METHODS, Scenario, Training
from unlearn.methods.base import Method

from ..base.errors import Fault, RecipeError
from ..base.values import Json, Object
from ..base.yaml_text import dump
from . import presets, sweep
from .checks import _attack_faults, _method_faults, _section_faults, _shadow_faults, method_defaults
from .choices import Choice
from .files import apply_override, read_document, shipped_recipes
from .options import Each, canonical_options, canonical_params, method_of, settings_of, validation_faults
from .places import expand_section, tracking_faults
from .sections import Recipe


def load_recipe(source: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Returns a checked recipe.

    **Arguments:**

    - `source`: a path, or the name of a shipped recipe.
    - `overrides`: `a.b=value` texts (YAML values); `methods.0.gamma=0.9` reaches into lists.

    **Raises:** `RecipeError` naming every fault.
    """
    label = str(source)
    document = read_document(source)
    for override in overrides:
        apply_override(document, override, label)
    return check_recipe(document, label)


def check_recipe(document: Any, label: str = "recipe") -> Recipe:
    """Returns the recipe that `document` (plain YAML data) describes; raises `RecipeError` naming every fault."""
    if not isinstance(document, dict):
        raise RecipeError(
            [Fault("recipe", document, "not a mapping", "keys such as name, dataset, scenario, model")], label
        )
    found: list[Fault] = []
    document = presets.fill_in(_expand_environment(document, found), found)
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        found += validation_faults(error, Recipe)
        raise RecipeError(found, label) from None
    found += tracking_faults(recipe.tracking.uri)
    found += _section_faults(recipe)
    found += _shadow_faults(recipe)
    # EU-k and its kin inherit the training section: its own faults are told once, not once more for each of them.
    found += _method_faults(recipe, inherit=not any(fault.field.startswith("training") for fault in found))
    found += _attack_faults(recipe)
    if found:
        raise RecipeError(found, label)
    return _canonical(recipe)


def _canonical(recipe: Recipe) -> Recipe:
    """Returns a checked recipe with one spelling for one value: what is shown, stored and compared.

    Data and model stay as they are written: their values were always part of the keys of what is stored.
    """

    def options(target: Any, given: Object, each: Each | None = None) -> dict[str, Json]:
        rest = {name: value for name, value in given.items() if name != "name"}
        return {"name": given["name"], **canonical_options(target, rest, each)}

    def method(given: Object) -> dict[str, Json]:
        return options(METHODS[str(given["name"])], given, sweep.each)

    changed: dict[str, Any] = {
        "scenario": canonical_options(Scenario, recipe.scenario),
        "training": canonical_options(Training, recipe.training),
        "methods": [method(given) for given in recipe.methods],
        "attacks": [options(ATTACKS[given["name"]], given) for given in recipe.attacks],
    }
    if recipe.search is not None and recipe.search.method.get("name") in METHODS:
        changed["search"] = recipe.search.model_copy(update={"method": method(recipe.search.method)})
    return recipe.model_copy(update=changed)


@dataclass(frozen=True)
class Point:
    """One setting of a method.

    **Arguments:**

    - `params`: what the recipe gives for it, in the types that the method declares.
    - `method`: the method with every default filled in. Points are equal where these are.
    - `written`: the values as the recipe spells them. They name models, as they always did.
    """

    name: str
    params: Object = field(compare=False)
    method: Method
    written: Object = field(compare=False)


def expand_methods(recipe: Recipe) -> list[Point]:
    """Returns every point of every method's sweep, in the recipe's order, duplicates removed."""
    points: list[Point] = []
    for index, settings in enumerate(recipe.methods):
        choice = Choice.of(settings)
        for params in sweep.expand(choice.options, recipe.seed, index):
            method = method_of(choice.name, {**method_defaults(choice.name, recipe), **params})
            settings = settings_of(method)
            point = Point(choice.name, {name: settings[name] for name in params}, method, params)
            if point not in points:
                points.append(point)
    return points


def to_yaml(recipe: Recipe) -> str:
    """Returns the resolved recipe as YAML, every default written out."""
    return dump(recipe.model_dump(mode="json"))


def _expand_environment(document: dict[str, Any], found: list[Fault]) -> dict[str, Any]:
    """Replaces ${NAME} in the dataset and tracking sections, the only ones whose values are places.

    A recipe that names no MLflow server takes that of MLFLOW_TRACKING_URI, as MLflow itself does.
    """
    expanded = dict(document)
    tracking = expanded.get("tracking", {})
    if isinstance(tracking, dict) and "uri" not in tracking and os.environ.get("MLFLOW_TRACKING_URI"):
        expanded["tracking"] = {**tracking, "uri": "${MLFLOW_TRACKING_URI}"}
    for section in ("dataset", "tracking"):
        if section in expanded:
            expanded[section] = expand_section(expanded[section], section, found)
    return expanded


__all__ = [
    "Recipe",
    "canonical_params",
    "check_recipe",
    "expand_methods",
    "load_recipe",
    "shipped_recipes",
    "to_yaml",
]
