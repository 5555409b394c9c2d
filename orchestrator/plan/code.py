"""Fingerprints of code that is not ours: what a plugin computes depends on it, so it is part of a
unit's key."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import sys
from functools import lru_cache
from pathlib import Path

from unlearn import MODELS

# Built-in code has no fingerprint: FORMAT_VERSION and MEASURES stand for it, and the `version` of a
# method whose results have changed.
OURS = frozenset({"unlearn", "attack", "orchestrator", "torch", "torchvision", "builtins", "abc", "typing"})


def code_of(target: object) -> str:
    """Returns what identifies the code of a class or a function.

    It is the `version` that the target declares, a text or an integer. Built-in code without one
    has an empty text. Any other has a digest of the Python sources of its package, and of
    the packages of the classes that it builds on.

    **Raises:** `ValueError` where there is neither a version nor a source.
    """
    module = getattr(target, "__module__", "")
    built_in = _package(module) in OURS
    parents = target.__mro__ if isinstance(target, type) else ()
    # A class of the user's does not inherit the version of a built-in one: its own code is unknown.
    own: list[object] = [parent for parent in parents if (_package(parent.__module__) in OURS) == built_in] or [target]
    version = next((vars(each)["version"] for each in own if "version" in getattr(each, "__dict__", {})), None)
    if isinstance(version, str | int):
        return f"version {version}"
    if built_in:
        return ""
    packages = {_package(module), *(_package(parent.__module__) for parent in parents)} - OURS
    digest = _combined(tuple(sorted(packages)))
    beneath = next(
        (code for parent in parents if _package(parent.__module__) in OURS and (code := code_of(parent))), ""
    )
    return f"{digest}; {beneath}" if beneath else digest


def code_of_factory(name: str) -> str:
    """Returns the same for `package.module:factory`, which is not imported for it.

    **Raises:** `ValueError` where there is no source.
    """
    package = _package(name.partition(":")[0])
    return "" if package in OURS else _combined((package,))


def code_of_model(name: str) -> str:
    """Returns the same for a model by its name in a recipe; empty for torchvision's."""
    if ":" in name:
        return code_of_factory(name)
    return code_of(MODELS[name]) if name in MODELS else ""


def _package(module: str) -> str:
    return module.partition(".")[0]


def _combined(packages: tuple[str, ...]) -> str:
    return hashlib.sha256("\n".join(_source_digest(package) for package in packages).encode()).hexdigest()


@lru_cache(maxsize=256)
def _source_digest(package: str) -> str:
    found = hashlib.sha256(package.encode())
    for path, root in _sources(package):
        found.update(str(path.relative_to(root)).encode() + b"\0")
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def _sources(package: str) -> list[tuple[Path, Path]]:
    """Returns the package's Python files, each with the folder that they are named from."""
    loaded = sys.modules.get(package)
    spec = getattr(loaded, "__spec__", None) or _found(package)
    if spec is not None and spec.submodule_search_locations:
        roots = [Path(place) for place in spec.submodule_search_locations]
        return [(path, root) for root in roots for path in sorted(root.rglob("*.py"))]
    origin = spec.origin if spec is not None else getattr(loaded, "__file__", None)
    if not origin or not Path(origin).is_file():
        raise ValueError(f"{package}: its source cannot be read; give the class a `version`, such as version = 1")
    return [(Path(origin), Path(origin).parent)]


def _found(package: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
