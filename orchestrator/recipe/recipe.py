"""Recipes: typed, strict, from YAML. Everything wrong is found before anything starts, and said in
one line each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from attack import ATTACKS
from unlearn import METHODS, Scenario, Training

from ..base.errors import Fault, RecipeError
from ..base.values import Json, plain
from ..base.yaml_text import dump
from . import preprocess, presets, sweep
from .checks import _attack_faults, _kept_faults, _method_faults, _section_faults, _shadow_faults, method_defaults
from .choices import Choice, Point
from .files import apply_override, read_document, shipped_recipes
from .options import Each, build, canonical_options, canonical_params, method_of, validation_faults
from .places import expand_section, tracking_faults
from .sections import Draft, Recipe


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


def check_recipe(document: object, label: str = "recipe") -> Recipe:
    """Returns the recipe that `document` (plain YAML data) describes; raises `RecipeError` naming
    every fault."""
    if not isinstance(document, dict):
        raise RecipeError(
            [Fault("recipe", document, "not a mapping", "keys such as name, dataset, scenario, model")], label
        )
    found: list[Fault] = []
    document = presets.write_out(preprocess.fill_in(_expand_environment(document, found), found), found)
    try:
        draft = Draft.model_validate(document)
    except ValidationError as error:
        found += validation_faults(error, Draft)
        raise RecipeError(found, label) from None
    found += tracking_faults(draft.tracking.uri)
    found += _section_faults(draft)
    found += _shadow_faults(draft)
    found += _kept_faults(draft)
    # EU-k and its kin inherit the training section: its own faults are told once, not once more for
    # each of them.
    found += _method_faults(draft, inherit=not any(fault.field.startswith("training") for fault in found))
    found += _attack_faults(draft)
    if found:
        raise RecipeError(found, label)
    return _parsed(_canonical(draft))


def _canonical(draft: Draft) -> Draft:
    """Returns a checked recipe with one spelling for one value: what is shown, stored and compared.

    Data and model stay as they are written: their values were always part of the keys of what is
    stored.
    """

    def options(target: type, given: Mapping[str, object], each: Each | None = None) -> dict[str, Json]:
        rest = {name: value for name, value in given.items() if name != "name"}
        return {"name": str(given["name"]), **canonical_options(target, rest, each)}

    def method(given: Mapping[str, object]) -> dict[str, Json]:
        return options(METHODS[str(given["name"])], given, sweep.each)

    changed: dict[str, object] = {
        "scenario": canonical_options(Scenario, draft.scenario),
        "training": canonical_options(Training, draft.training),
        "methods": [method(given) for given in draft.methods],
        "attacks": [options(ATTACKS[str(given["name"])], given) for given in draft.attacks],
    }
    if draft.search is not None:
        changed["search"] = draft.search.model_copy(update={"method": method(draft.search.method)})
    return draft.model_copy(update=changed)


def _parsed(draft: Draft) -> Recipe:
    return Recipe(
        name=draft.name,
        description=draft.description,
        seed=draft.seed,
        dataset=Choice.of(draft.dataset, "source"),
        scenario=build(Scenario, draft.scenario),
        model=Choice.of(draft.model),
        training=build(Training, draft.training),
        shadows=draft.shadows,
        methods=tuple(_points(draft)),
        attacks=tuple(Choice.of(given) for given in draft.attacks),
        tracking=draft.tracking,
        resources=draft.resources,
        search=draft.search,
        league=draft.league,
        verdict=draft.verdict,
        outputs=draft.outputs,
        report=draft.report,
        document=draft.model_dump(mode="json"),
    )


def _points(draft: Draft) -> list[Point]:
    """Returns every point of every method's sweep, in the recipe's order, duplicates removed."""
    points: list[Point] = []
    for index, given in enumerate(draft.methods):
        choice = Choice.of(given)
        for params in sweep.expand(choice.options, draft.seed, index):
            method = method_of(choice.name, {**method_defaults(choice.name, draft), **params})
            point = Point.of(choice.name, method, {name: plain(value) for name, value in params.items()})
            if point not in points:
                points.append(point)
    return points


def changed(recipe: Recipe, **sections: object) -> Recipe:
    """Returns the recipe with other sections, given as plain data; raises as `check_recipe`."""
    return check_recipe({**recipe.document, **sections}, recipe.name)


def to_yaml(recipe: Recipe) -> str:
    """Returns the resolved recipe as YAML, every default written out."""
    return dump(recipe.document)


def _expand_environment(document: dict[str, object], found: list[Fault]) -> dict[str, object]:
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
    "changed",
    "check_recipe",
    "load_recipe",
    "shipped_recipes",
    "to_yaml",
]
