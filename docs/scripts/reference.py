"""Writes the reference pages from the code itself: what a page says is what the program does.

`PAGES` maps the name of each page to the function that writes it.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import environment
import glossary
import results_reference

import attack
import unlearn
from orchestrator.base import errors
from orchestrator.commands.cli import build_parser
from orchestrator.recipe.schema import recipe_schema
from orchestrator.report import words
from unlearn.methods.cards import describe, plain

Schema = Mapping[str, Any]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Returns a Markdown table."""
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    """Returns the text of a table's cell. A bar outside of code would end it."""
    parts = re.split(r"(`[^`]*`)", " ".join(str(text).split()))
    return "".join(part if part.startswith("`") else part.replace("|", "&#124;") for part in parts)


# ------------------------------------------------------------------------------------------------------------------ Recipe

_WHOLE = {
    "name": "Names the experiment and its output folder: letters, digits, `.`, `_` and `-`.",
    "description": "A line for people.",
    "seed": "Every random draw comes from it.",
    "dataset": "[The images](#dataset).",
    "scenario": "[What to forget](#scenario).",
    "model": "[The network](#model).",
    "training": "[How models are trained](#training).",
    "shadows": "[How many models, and who learns from which](#shadows).",
    "methods": "[What unlearns](#methods).",
    "attacks": "[What looks for the forget set](#attacks).",
    "tracking": "[Where MLflow keeps the runs](#tracking).",
    "resources": "[What a unit takes](#resources).",
    "verdict": "[What counts as forgotten](#verdict).",
    "outputs": "[Logits that are kept besides the forget set's](#outputs).",
    "search": "[What `orchestrator search` looks for](#search).",
    "league": "[What `orchestrator league` compares](#league).",
    "extends": "A recipe to fill this one in from: a path or a shipped name.",
}

_SECTIONS = {
    "dataset": ("source", "The images. `source` names where they come from; the other keys are that source's options."),
    "methods": ("name", "What unlearns. Any option may be `{grid: […]}`, `{zip: […]}`, `{uniform: [low, high]}` or "
                "`{loguniform: [low, high]}`; `samples` says how many are drawn."),
    "attacks": ("name", "What looks for the forget set afterwards. The first one is the primary attack."),
}  # fmt: skip


def recipe() -> str:
    """Returns the page of recipe keys, from the JSON Schema that `orchestrator schema` prints."""
    schema = recipe_schema()
    kinds = schema["$defs"]
    text = [
        "# Recipe",
        "A recipe is a YAML file. Unknown keys are refused, with the nearest right spelling. "
        "`orchestrator schema` prints the JSON Schema behind this page, for your editor.",
        "## The whole",
        _fields(schema, kinds, _WHOLE),
    ]
    for name, part in schema["properties"].items():
        inner = _resolve(part, kinds)
        if name in _SECTIONS:
            key, about = _SECTIONS[name]
            text += [f"## `{name}`", about]
            registry = {"dataset": unlearn.SOURCES, "methods": unlearn.METHODS, "attacks": attack.ATTACKS}[name]
            for kind in sorted(registry):
                if f"{name}.{kind}" in kinds:
                    target = registry[kind]
                    text += [f"### `{key}: {kind}`", _first(target)]
                    text.append(_fields(kinds[f"{name}.{kind}"], kinds, _argument_docs(target), skip=(key,)))
        elif inner.get("properties"):
            targets = {"scenario": unlearn.Scenario, "training": unlearn.Training}
            target = targets.get(name)
            text += [f"## `{name}`", _first(target) if target else inner.get("description", "")]
            text.append(_fields(inner, kinds, _argument_docs(target)))
    return "\n\n".join(part for part in text if part)


def _resolve(part: Schema, kinds: Mapping[str, Schema]) -> Schema:
    """Returns the schema that a property stands for, through references and an optional null."""
    if "$ref" in part:
        return kinds[part["$ref"].rsplit("/", 1)[-1]]
    for choice in part.get("anyOf", []):
        if "$ref" in choice:
            return kinds[choice["$ref"].rsplit("/", 1)[-1]]
    return part


def _fields(
    schema: Schema, kinds: Mapping[str, Schema], docs: Mapping[str, str] | None = None, skip: tuple[str, ...] = ()
) -> str:
    """Returns the table of an object's keys."""
    required = schema.get("required", [])
    rows = []
    for name, part in schema.get("properties", {}).items():
        if name in skip:
            continue
        default = "required" if name in required else _default(part)
        meaning = (docs or {}).get(name) or part.get("description") or _COMMON.get(name, "")
        rows.append((f"`{name}`", _type(part, kinds), default, meaning))
    return table(("key", "type", "default", "meaning"), rows) if rows else "No options.\n"


_COMMON = {
    "limit": "Only the first so many images: a number of training images, or `{train: …, test: …}`.",
    "samples": "How many settings are drawn from `uniform` and `loguniform`.",
}


def _default(part: Schema) -> str:
    if "default" not in part or isinstance(part["default"], dict):
        return ""
    return f"`{json.dumps(part['default'], ensure_ascii=False)}`"


def _type(part: Schema, kinds: Mapping[str, Schema]) -> str:
    """Returns what values a key takes, in words."""
    if "const" in part:
        return f"`{part['const']}`"
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    if "anyOf" in part:
        seen = dict.fromkeys(_type(choice, kinds) for choice in part["anyOf"] if "grid" not in str(choice))
        return " or ".join(kind for kind in seen if kind)
    if "$ref" in part:
        return "a section"
    kind = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}.get(
        part.get("type", ""), part.get("type", "")
    )
    if part.get("type") == "array":
        items = part.get("items") or {}
        kind = "list" + (f" of {_type(items, kinds)}" if isinstance(items, dict) and items.get("type") else "")
    if part.get("type") == "object":
        kind = "mapping"
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    bounds = [f"{sign} {_number(part[word])}" for word, sign in signs.items() if word in part]
    return " ".join([kind, ", ".join(bounds)]).strip()


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _first(target: Any) -> str:
    """Returns the first paragraph of a docstring."""
    return (inspect.getdoc(target) or "").split("\n\n")[0]


_ARGUMENT = re.compile(r"^- ((?:`\w+`(?:, )?)+)(?::| of) (.*)$")


def _argument_docs(target: Any) -> dict[str, str]:
    """Returns what a docstring's list of arguments says of each, those of its base classes included."""
    found: dict[str, str] = {}
    for kind in reversed(inspect.getmro(target)) if inspect.isclass(target) else [target] if target else []:
        text = inspect.cleandoc(kind.__doc__ or "") if kind is not object else ""
        joined = re.sub(r"\n {2,}", " ", text)
        for line in joined.splitlines():
            if match := _ARGUMENT.match(line):
                found |= {name: match.group(2) for name in re.findall(r"`(\w+)`", match.group(1))}
    return found


# ------------------------------------------------------------------------------------------------------------ Command line


def commands() -> str:
    """Returns the page of every command, from the parser itself."""
    parser = build_parser()
    text = ["# Command line", str(parser.description), "Exit codes are on [a page of their own](exit-codes.md)."]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            text += [part for name, command in action.choices.items() for part in _command(name, command)]
    return "\n\n".join(text)


def _command(name: str, command: argparse.ArgumentParser) -> list[str]:
    usage = textwrap.fill(
        " ".join(command.format_usage().removeprefix("usage: ").split()),
        88,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    text = [f"## `orchestrator {name}`", str(command.description), f"```text\n{usage}\n```"]
    rows = []
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            text += [part for inner, sub in action.choices.items() for part in _command(f"{name} {inner}", sub)]
        elif action.dest != "help" and action.help != argparse.SUPPRESS:
            metavar = action.metavar if isinstance(action.metavar, str) else ""
            shown = ", ".join(action.option_strings) or metavar or action.dest
            value = f" {metavar or action.dest.upper()}" if action.option_strings and action.nargs != 0 else ""
            help_text = (action.help or "") % {"default": action.default, "prog": command.prog}
            rows.append((f"`{shown}{value}`", help_text))
    return [*text, table(("argument", "meaning"), rows)] if rows else text


# --------------------------------------------------------------------------------------------------------------------- API


def _api(package: Any, about: str) -> str:
    """Returns a page that names every public class and function of a package; mkdocstrings fills it in."""
    text = [f"# `{package.__name__}`", about]
    constants = []
    for name in package.__all__:
        target = getattr(package, name)
        if inspect.isclass(target) or inspect.isfunction(target):
            text.append(f"::: {target.__module__}.{target.__qualname__}")
        elif isinstance(target, Mapping):
            constants.append((f"`{package.__name__}.{name}`", ", ".join(f"`{key}`" for key in sorted(target))))
    return "\n\n".join([*text[:2], "## Registries", table(("name", "what is in it"), constants), *text[2:]])


def unlearn_api() -> str:
    """Returns the page of `unlearn`."""
    return _api(unlearn, "Models, data, training, second moments and unlearning methods. Needs torch only.")


def attack_api() -> str:
    """Returns the page of `attack`."""
    return _api(attack, "Membership-inference attacks on tables of model outputs. Needs Arrow, NumPy and XGBoost only.")


# ------------------------------------------------------------------------------------------------------------------- Files


def outputs() -> str:
    """Returns the page of the outputs table, from its schema."""
    schema = attack.OUTPUTS_SCHEMA(10)
    rows = [(f"`{field.name}`", f"`{field.type}`", _COLUMNS[field.name]) for field in schema]
    optional = [(f"`{name}`", "`string`", _COLUMNS[name]) for name in ("parent", "set")]
    return "\n\n".join(
        [
            "# Outputs table",
            "One row for each model and sample. `orchestrator run` writes it to `outputs/*.parquet`; "
            "`orchestrator audit` reads it. Below, the types for ten classes.",
            table(("column", "type", "meaning"), [*rows, *optional]),
            "Every attack learns from the rows of `original` and `retrained` models in the folds `train` and "
            "`validation`. It is judged on the fold `test`.",
        ]
    )


_COLUMNS = {
    "model_id": "Which model. Any text.",
    "role": "`original`: trained on everything. `retrained`: never saw the forget set. `unlearned`: made to forget it.",
    "method": "The method that unlearned the model. Only for `unlearned`.",
    "params": "Its settings, as JSON text. Rows with the same method and settings are one row of the results.",
    "fold": "`train`, `validation` or `test`: the attacker's division of models.",
    "sample_id": "Which sample of the forget set.",
    "label": "The class of the sample.",
    "logits": "The model's outputs before softmax, one for each class.",
    "parent": "Optional: `model_id` of the original that the model was unlearned from. Models of one parent count as one.",
    "set": "Optional: `forget`, `retain`, `validation` or `test`. No model was trained on the last two: the z of RMIA, "
    "and images to compare forget samples with. Where there is one of them only, its samples are dealt to both.",
}


def exit_codes() -> str:
    """Returns the page of exit codes."""
    rows = [(f"`{getattr(errors, name)}`", meaning) for name, meaning in _EXITS.items()]
    known = {name for name in vars(errors) if name.startswith("EXIT_")}
    if known != set(_EXITS):
        raise ValueError(f"exit codes without a meaning here: {sorted(known ^ set(_EXITS))}")
    return "\n\n".join(
        [
            "# Exit codes",
            "Every command ends with one of these. A message for you goes to standard error, without a traceback.",
            table(("code", "meaning"), rows),
        ]
    )


_EXITS = {
    "EXIT_OK": "Done.",
    "EXIT_UNITS_FAILED": "Some units failed. The rest is finished and reported.",
    "EXIT_USAGE": "Bad usage or a bad recipe. Nothing was started.",
    "EXIT_ENVIRONMENT": "Storage, cluster, disk or tracking is not usable. Finished work is kept.",
    "EXIT_INTERRUPTED": "Interrupted. The same command resumes.",
}


def environment_variables() -> str:
    """Returns the page of environment variables."""
    rows = [(f"`{name}`", meaning) for name, meaning in environment.VARIABLES.items()]
    return "\n\n".join(["# Environment variables", table(("variable", "meaning"), rows)])


def metrics() -> str:
    """Returns the metrics glossary."""
    rows = [(f"`{m.name}`", m.what, m.formula, m.range, m.direction) for m in glossary.METRICS]
    return "\n\n".join(
        [
            "# Metrics",
            *glossary.NOTES,
            table(("name", "what it is", "formula", "range", "aim"), rows),
        ]
    )


def methods() -> str:
    """Returns the page of every method's card, with its presets."""
    text = [
        "# Methods",
        "What each method computes, which data it sees, and what it costs. "
        "What its settings mean is in the [reference of the library](unlearn.md).",
    ]
    for name, method in sorted(unlearn.METHODS.items(), key=lambda item: item[1].card.title.lower()):
        described = describe(name)
        card = described.card
        rows = [
            ("in a recipe", f"`{name}`" if method.selectable else "every run has it"),
            ("formula", card.formula),
            ("paper", card.paper),
            ("sees", words.sees_in_words(described.access, described.validation)),
            ("for", ", ".join(f"`{kind}`" for kind in described.scenarios)),
            ("cost", card.passes),
        ]
        text += [f"## {card.title}", table((rows[0][0], rows[0][1]), [row for row in rows[1:] if row[1]])]
        fields = [(f"`{each.name}`", each.shown, each.searched) for each in described.settings]
        text.append(table(("setting", "default", "a search tries"), fields))
        if card.deviations:
            text.append("Where it knowingly differs:\n\n" + "\n".join(f"- {told}" for told in card.deviations))
        presets = [
            (f"`{preset}`", ", ".join(f"`{key}: {plain(value)}`" for key, value in found.values.items()), found.source)
            for preset, found in described.presets.items()
        ]
        if presets:
            text.append(table(("preset", "values", "source"), presets))
    return "\n\n".join(text)


PAGES: dict[str, Callable[[], str]] = {
    "reference/recipe.md": recipe,
    "reference/commands.md": commands,
    "reference/unlearn.md": unlearn_api,
    "reference/attack.md": attack_api,
    "reference/methods.md": methods,
    "reference/outputs.md": outputs,
    "reference/results.md": results_reference.page,
    "reference/metrics.md": metrics,
    "reference/exit-codes.md": exit_codes,
    "reference/environment.md": environment_variables,
}
