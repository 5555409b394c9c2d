"""Code of the user's own on its way to a cluster, beside the recipe that names it."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..base.errors import UserError
from ..base.values import Json
from ..recipe.sections import Recipe

INSTALLED = ("site-packages", "dist-packages")


def ship_code(recipe: Recipe, folder: Path) -> None:
    """Copies each package or module that the recipe names as `package.module:Class` into `folder`.

    What is installed is left alone: the cluster must have it, as it has torch.

    **Raises:** `UserError` where a module has no source here.
    """
    for package in sorted({name.partition(":")[0].partition(".")[0] for name in _own_names(recipe)}):
        spec = importlib.util.find_spec(package)
        origin = None if spec is None else spec.origin
        if spec is None or origin is None or not origin.endswith(".py"):
            raise UserError(f"{package}: its source cannot be found here, so it cannot be sent along")
        path = Path(origin)
        if any(part in INSTALLED for part in path.parts):
            continue
        if spec.submodule_search_locations:
            shutil.copytree(path.parent, folder / package, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy2(path, folder / path.name)


def _own_names(recipe: Recipe) -> Iterator[str]:
    sections: list[Json] = [recipe.section("model"), recipe.section("dataset")]
    for several in ("methods", "attacks"):
        found = recipe.document.get(several)
        sections += found if isinstance(found, list) else []
    for section in sections:
        if isinstance(section, dict):
            yield from (v for k, v in section.items() if k in ("name", "source") and isinstance(v, str) and ":" in v)
