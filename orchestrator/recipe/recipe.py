"""Recipes: typed, strict, from YAML. Everything wrong is found before anything starts, and said in one line each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from . import sweep
from ..base.errors import Fault, RecipeError, nearest
from .options import canonical_params, fault_from, option_faults, option_names, validation_faults
from .places import expand_section, tracking_faults
from .files import apply_override, read_document, shipped_recipes
from .sections import Resources, Search, Shadows, Strict, Tracking


class Recipe(Strict):
    """A whole experiment. `dataset`, `scenario`, `model`, `training`, `methods` and `attacks` take the options of what they name."""

    name: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}$", description="letters, digits, '.', '_' and '-'")
    ]
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    dataset: dict[str, Any]
    scenario: dict[str, Any]
    model: dict[str, Any]
    training: dict[str, Any] = Field(default_factory=dict)
    shadows: Shadows = Shadows()
    methods: list[dict[str, Any]] = Field(default_factory=list)
    attacks: list[dict[str, Any]] = Field(default_factory=lambda: [{"name": "xgboost"}])
    tracking: Tracking = Tracking()
    resources: Resources = Resources()
    # Left out where there is none: recipes without a search are the experiments that they were.
    search: Annotated[Search | None, Field(exclude_if=lambda search: search is None)] = None


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
    document = _expand_environment(document, found)
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
    return recipe


def expand_methods(recipe: Recipe) -> list[dict[str, Any]]:
    """Returns `{"name", "params"}` for every point of every method's sweep, in the recipe's order, duplicates removed."""
    points: list[dict[str, Any]] = []
    for index, settings in enumerate(recipe.methods):
        options = {k: v for k, v in settings.items() if k != "name"}
        for params in sweep.expand(options, recipe.seed, index):
            point = {"name": settings["name"], "params": params}
            if point not in points:
                points.append(point)
    return points


def to_yaml(recipe: Recipe) -> str:
    """Returns the resolved recipe as YAML, every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def _expand_environment(document: dict[str, Any], found: list[Fault]) -> dict[str, Any]:
    """Replaces ${NAME} in the dataset and tracking sections, the only ones whose values are places."""
    expanded = dict(document)
    for section in ("dataset", "tracking"):
        if section in expanded:
            expanded[section] = expand_section(expanded[section], section, found)
    return expanded


def _section_faults(recipe: Recipe) -> list[Fault]:
    from unlearn import MODELS, SOURCES, Scenario, Training

    found: list[Fault] = []
    dataset = dict(recipe.dataset)
    source = dataset.pop("source", None)
    if source not in SOURCES:
        found.append(
            Fault("dataset.source", source, "no such data source", ", ".join(SOURCES), nearest(source or "", SOURCES))
        )
    else:
        found += option_faults(SOURCES[source], dataset, "dataset", extra={"limit": int | dict[str, int] | None})
        found += _limit_faults(dataset.get("limit"))
    found += option_faults(Scenario, recipe.scenario, "scenario")
    found += option_faults(Training, recipe.training, "training")
    model = dict(recipe.model)
    name = model.pop("name", None)
    if not isinstance(name, str):
        found.append(
            Fault("model.name", name, "missing", ", ".join([*MODELS, "a torchvision model", "package.module:factory"]))
        )
    elif name in MODELS:
        unfit = option_faults(MODELS[name], model, "model", skip=("num_classes", "in_channels", "image_size", "seed"))
        found += unfit or model_faults(recipe, num_classes=10, channels=3, image_size=64)
    elif ":" not in name:
        from unlearn.models import torchvision_names

        known = [*MODELS, *torchvision_names()]
        if name not in known:
            found.append(
                Fault(
                    "model.name",
                    name,
                    "no such model",
                    f"{', '.join(MODELS)}, a torchvision classifier or package.module:factory",
                    nearest(name, known),
                )
            )
    return found


def model_faults(
    recipe: Recipe, num_classes: int, channels: int, image_size: int, allow_factory: bool = False
) -> list[Fault]:
    """Returns what keeps the recipe's model from being built for images of this shape; builds it without its weights."""
    import torch

    from unlearn import build_model

    name = recipe.model["name"]
    if ":" in name and allow_factory:
        return []  # the user's own code may not stand being built without weights
    options = {k: v for k, v in recipe.model.items() if k != "name"}
    try:
        with torch.device("meta"):
            build_model(name, num_classes=num_classes, in_channels=channels, image_size=image_size, **options)
    except (ValueError, TypeError) as error:
        return [fault_from(error, "model", recipe.model)]
    return []


def _limit_faults(limit: Any) -> list[Fault]:
    if limit is None:
        return []
    parts = limit if isinstance(limit, Mapping) else {"train": limit}
    found = [
        Fault(f"dataset.limit.{k}", v, "unknown key", "train, test", nearest(k, ("train", "test")))
        for k, v in parts.items()
        if k not in ("train", "test")
    ]
    found += [
        Fault(f"dataset.limit.{k}", v, "not a number of images", "an integer of at least 1")
        for k, v in parts.items()
        if not isinstance(v, int) or isinstance(v, bool) or v < 1
    ]
    return found


def _shadow_faults(recipe: Recipe) -> list[Fault]:
    shadows = recipe.shadows
    found = []
    for role, count in (("originals", shadows.originals), ("retrained", shadows.retrained)):
        if sum(shadows.split) != count and not (role == "retrained" and count == 0 and not recipe.attacks):
            _, validation, test = shadows.split
            likely = max(1, count - validation - test)
            found.append(
                Fault(
                    "shadows.split",
                    list(shadows.split),
                    f"adds up to {sum(shadows.split)}, but shadows.{role} is {count}",
                    f"three numbers that add up to {count}, such as [{likely}, {validation}, {test}]",
                )
            )
            break
    if recipe.attacks and min(shadows.split) < 1:
        found.append(
            Fault("shadows.split", list(shadows.split), "each fold needs a model", "three numbers of at least 1")
        )
    elif shadows.split[2] < 1 or min(shadows.split) < 0:
        found.append(
            Fault(
                "shadows.split",
                list(shadows.split),
                "the test fold needs a model",
                "for example [0, 0, 3] without attacks",
            )
        )
    return found


def _method_faults(recipe: Recipe, inherit: bool) -> list[Fault]:
    from unlearn import METHODS

    found: list[Fault] = []
    for index, settings in enumerate(recipe.methods):
        where = f"methods.{index}"
        name = str(settings.get("name"))
        if name not in METHODS:
            found.append(
                Fault(f"{where}.name", name, "no such method", ", ".join(METHODS), nearest(str(name or ""), METHODS))
            )
            continue
        if name == "retrain":
            found.append(Fault(f"{where}.name", name, "retrain is always a row of its own", "leave it out"))
            continue
        options = {k: v for k, v in settings.items() if k != "name"}
        malformed = sweep.faults(options, where)
        found += malformed
        unknown = [k for k in options if k != "samples" and k not in option_names(METHODS[name])]
        if malformed or unknown:
            found += [
                f
                for f in option_faults(METHODS[name], {k: options[k] for k in unknown}, where)
                if f.field.split(".")[-1] in unknown
            ]
            continue
        seen: set[str] = set()
        inherited = method_defaults(name, recipe) if inherit else {}
        for params in sweep.expand(options, recipe.seed, index):
            for fault in option_faults(METHODS[name], {**inherited, **params}, where):
                if str(fault) not in seen:
                    seen.add(str(fault))
                    found.append(fault)
    return found


def method_defaults(name: str, recipe: Recipe) -> dict[str, Any]:
    """Returns the training recipe's values for those of a method's options that carry the same names.

    EU-k, CF-k and Retrain train "with the original recipe" unless told otherwise, so their optimiser settings come from
    `training`. Methods of another kind keep their own defaults.
    """
    from unlearn import METHODS

    if not getattr(METHODS[name], "inherits_training", False):
        return {}
    shared = set(option_names(METHODS[name])) & set(recipe.training)
    return {key: recipe.training[key] for key in sorted(shared)}


def _attack_faults(recipe: Recipe) -> list[Fault]:
    from attack import ATTACKS
    from attack.attacks.registry import label_free, reads_label

    found: list[Fault] = []
    for index, settings in enumerate(recipe.attacks):
        where = f"attacks.{index}"
        name = settings.get("name")
        if name not in ATTACKS:
            found.append(
                Fault(f"{where}.name", name, "no such attack", ", ".join(ATTACKS), nearest(str(name or ""), ATTACKS))
            )
            continue
        found += option_faults(ATTACKS[name], {k: v for k, v in settings.items() if k != "name"}, where)
        if recipe.scenario.get("kind") == "classes" and reads_label(str(name)):
            # Every model shows an attacker the kept classes' logits only, since an unlearned model has no others.
            found.append(
                Fault(
                    f"{where}.name",
                    name,
                    "reads the label's own logit, which removing classes takes away",
                    ", ".join(label_free()),
                )
            )
        if name == "u_lira" and recipe.shadows.unlearn != "all":
            found.append(
                Fault(
                    "shadows.unlearn",
                    recipe.shadows.unlearn,
                    "u_lira compares models unlearned from every original",
                    "all",
                )
            )
    names = [settings.get("name") for settings in recipe.attacks]
    if len(set(names)) < len(names):
        found.append(Fault("attacks", names, "an attack is named twice", "each attack once"))
    return found


__all__ = [
    "Recipe",
    "canonical_params",
    "check_recipe",
    "expand_methods",
    "load_recipe",
    "method_defaults",
    "shipped_recipes",
    "to_yaml",
]
