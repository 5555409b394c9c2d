"""Fingerprints of code that is not ours: what a plugin computes depends on it, so it is part of a
unit's key."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
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
    lineage: tuple[object, ...] = target.__mro__ if isinstance(target, type) else (target,)
    built_in = [each for each in lineage if _package_of(each) in OURS]
    theirs = [each for each in lineage if each not in built_in]
    if not theirs:
        return _declared(built_in)
    # The version of a built-in parent says nothing of the code that a user has added.
    if version := _declared(theirs):
        return version
    digest = _combined(tuple(sorted({_package_of(each) for each in theirs})))
    return "; ".join(filter(None, (digest, _declared(built_in))))


def _declared(lineage: Sequence[object]) -> str:
    """Returns the version that the first of these with a `version` declares; empty without one."""
    version = next((vars(each)["version"] for each in lineage if "version" in getattr(each, "__dict__", {})), None)
    return f"version {version}" if isinstance(version, str | int) else ""


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


def _package_of(target: object) -> str:
    return _package(getattr(target, "__module__", ""))


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
