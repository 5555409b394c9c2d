"""Recipe files: shipped ones by name, one that extends another, and values set from the command
line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..base.errors import Fault, RecipeError, closest
from ..base.values import Json, Object
from ..base.yaml_text import YamlFault, load

SHIPPED = Path(__file__).parents[1] / "recipes"
CLOSEST = 5  # names that the error of an unknown recipe shows


def shipped_recipes() -> dict[str, Path]:
    """Returns the recipes that come with the package, name to file; those that others only extend
    begin with an underscore."""
    return {path.stem: path for path in sorted(SHIPPED.rglob("*.yaml"))}


def read_document(source: str | Path) -> Json:
    """Returns what a recipe file says, with what it `extends` filled in: mappings are merged, lists
    and values replaced.

    **Arguments:** `source`: a path, or the name of a shipped recipe. `extends` is the same, a path
    relative to the file.

    **Raises:** `RecipeError` where there is no such file or it is not YAML.
    """
    document, path = _load(source, "RECIPE")
    files = [path]
    while True:
        if not isinstance(document, dict) or "extends" not in document:
            return document
        parent = document.pop("extends")
        if not isinstance(parent, str):
            raise RecipeError(
                [Fault("extends", parent, "not a recipe", "a path, or the name of a shipped recipe")], str(source)
            )
        beside = path.parent / parent
        base, path = _load(beside if beside.is_file() else parent, "extends")
        files.append(path)
        if path.resolve() in (before.resolve() for before in files[:-1]):
            problem = f"recipes extend one another in a circle: {' → '.join(file.name for file in files)}"
            raise RecipeError([Fault("extends", parent, problem, "a recipe that does not lead back here")], str(source))
        if not isinstance(base, dict):
            raise RecipeError([Fault("extends", parent, "not a recipe", "a YAML mapping")], str(source))
        document = _merged(base, document)


def _merged(base: Object, changes: Object) -> dict[str, Json]:
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        merged[key] = value
        if isinstance(value, Mapping) and isinstance(before, Mapping) and _alike(before, value):
            merged[key] = _merged(before, value)
    return merged


def _alike(before: Object, value: Object) -> bool:
    """Whether two sections are of one kind: another scenario, source or model takes options of its
    own."""
    return all(before.get(key) == value.get(key, before.get(key)) for key in ("kind", "source", "name"))


def _load(source: str | Path, field: str) -> tuple[Json, Path]:
    path = Path(source)
    if path.is_dir() and str(source) not in shipped_recipes():
        fault = Fault(field, str(source), "is a folder", "a YAML file, or a name that `orchestrator recipes` lists")
        raise RecipeError([fault], "orchestrator")
    if not path.is_file():
        shipped = shipped_recipes()
        if str(source) not in shipped:
            near = closest(str(source), (name for name in shipped if not name.startswith("_")), most=CLOSEST)
            allowed = "a path, or a name that `orchestrator recipes` lists"
            if len(near) > 1:
                allowed += f", such as {', '.join(near)}"
            problem = "no such file and no shipped recipe of this name"
            raise RecipeError([Fault(field, str(source), problem, allowed, near[0] if near else "")], "orchestrator")
        path = shipped[str(source)]
    try:
        return load(path.read_text(encoding="utf-8")), path
    except UnicodeDecodeError as error:
        fault = Fault(field, str(path), f"not UTF-8 text ({error.reason})", "a YAML file")
    except YamlFault as error:
        fault = Fault(field, str(path), str(error))
    raise RecipeError([fault], str(source))


def apply_override(document: object, text: str, label: str) -> None:
    """Sets one `a.b=value` (a YAML value) in a document; `methods.0.gamma` reaches into lists.

    **Raises:** `RecipeError` where the text or the place is not one.
    """
    path, separator, raw = text.partition("=")
    if not separator or not path:
        raise RecipeError(
            [Fault("--set", text, "not of the form a.b=value", "for example --set training.epochs=10")], label
        )
    try:
        value = load(raw)
    except YamlFault as error:
        raise RecipeError([Fault("--set", text, str(error), "a number, a text, or [a, b]")], label) from None
    *parents, last = path.split(".")
    node = document
    for part in parents:
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
        else:
            raise RecipeError(
                [Fault("--set", text, f"there is nothing at {part!r}", "an existing list index or a mapping")], label
            )
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError(
            [Fault("--set", text, f"there is nothing at {last!r}", "an existing list index or a mapping")], label
        )
