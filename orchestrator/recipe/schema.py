"""The JSON Schema of recipes, built from the same signatures that check them."""

from __future__ import annotations

from typing import Any, TypeAlias

from attack import ATTACKS
from unlearn import METHODS, MODELS, SOURCES, Method, Scenario, Training

from .options import Target, options_model
from .presets import EVERY
from .sections import Draft
from .sweep import KINDS

Schema: TypeAlias = dict[str, Any]  # JSON Schema, as pydantic gives it


def recipe_schema() -> Schema:
    """Returns the JSON Schema of a recipe, with the options of every known source, model, method
    and attack."""
    schema = Draft.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    skip = ("num_classes", "in_channels", "image_size", "seed")
    sections = {
        "dataset": {"source": {name: _options(SOURCES[name]) for name in SOURCES}},
        "methods": {"name": {name: _of_method(METHODS[name]) for name in METHODS if METHODS[name].selectable}},
        "attacks": {"name": {name: _options(ATTACKS[name]) for name in ATTACKS}},
    }
    sections["methods"]["name"][EVERY] = {
        "description": "Every method that fits the scenario and is not named beside it, with its defaults.",
        "type": "object",
        "additionalProperties": False,
    }
    for section, by_key in sections.items():
        for key, variants in by_key.items():
            choices = []
            for name, variant in variants.items():
                properties = {key: {"const": name}, **variant.get("properties", {})}
                if section == "dataset":
                    properties["limit"] = {
                        "anyOf": [{"type": "integer"}, {"type": "object", "additionalProperties": {"type": "integer"}}]
                    }
                    numbers = {
                        "type": "array",
                        "items": {"type": "number"},
                        "description": "one for each channel, in [0, 1]",
                    }
                    named = {
                        "anyOf": [{"type": "string"}, {"type": "object"}],
                        "description": "how a published model wants its images: a torchvision model or its weights, "
                        "timm:NAME, a .json file, or a mapping; stands for mean, std and image_size",
                    }
                    properties |= {"mean": numbers, "std": numbers, "preprocess": named}
                definitions[f"{section}.{name}"] = {
                    **variant,
                    "properties": properties,
                    "required": [key, *variant.get("required", [])],
                }
                definitions.update(definitions[f"{section}.{name}"].pop("$defs", {}))
                choices.append({"$ref": f"#/$defs/{section}.{name}"})
            shape = {"anyOf": choices}
            schema["properties"][section] = shape if section == "dataset" else {"type": "array", "items": shape}
    for section, target in (("scenario", Scenario), ("training", Training)):
        schema["properties"][section] = _options(target)
    models: Schema = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string", "examples": list(MODELS)}},
    }
    models["properties"].update(
        {k: v for name in MODELS for k, v in _options(MODELS[name], skip).get("properties", {}).items()}
    )
    schema["properties"]["model"] = models
    return _or_extending(schema)


def _or_extending(schema: Schema) -> Schema:
    """Lets a recipe that extends another leave out what that one says, also inside `dataset` and
    `model`."""
    properties = schema["properties"]
    whole = {"required": schema.pop("required"), "properties": {k: properties[k] for k in ("dataset", "model")}}
    properties.update({name: {"type": "object"} for name in whole["properties"]})
    properties["extends"] = {
        "type": "string",
        "description": "a recipe to fill this one in from: a path or a shipped name",
    }
    return {**schema, "if": {"required": ["extends"]}, "else": whole}


def _options(target: Target, skip: tuple[str, ...] = ()) -> Schema:
    return options_model(target, skip=skip).model_json_schema()


def _of_method(method: type[Method]) -> Schema:
    """The options of a method, sweeps of them, and those that only older recipes have."""
    found = _options(method)
    found["properties"] |= {name: {"deprecated": True} for name in method.retired}
    found = _swept(found)
    if method.presets:
        found["properties"]["preset"] = {"enum": list(method.presets), "description": "published settings"}
    return found


def _swept(schema: Schema) -> Schema:
    """Lets a sweep stand for any option of a method."""
    sweeps = {
        "type": "object",
        "properties": {kind: {"type": "array", "minItems": 1} for kind in KINDS},
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
    }
    properties = {
        name: {"anyOf": [value, sweeps], "title": value.get("title", name)}
        for name, value in schema.get("properties", {}).items()
    }
    properties["samples"] = {"type": "integer", "minimum": 1, "description": "draws of uniform and loguniform"}
    return {**schema, "properties": properties}
