"""Code of the user's own that a recipe names as `package.module:Class`: only where it is
permitted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from attack import ATTACKS
from attack.registry import Registry as Attacks
from unlearn import METHODS, SOURCES
from unlearn.core.registry import Registry

from ..base.errors import Fault, nearest

PERMIT = "permit it with --allow-code"


def permit_code(allowed: bool) -> None:
    """Lets recipes that this process reads name methods, attacks and sources by their code, or not.

    The current folder is then looked through for it, last of all, so that nothing in it hides an
    installed package.
    """
    for registry in (METHODS, ATTACKS, SOURCES):
        registry.code_allowed = allowed
    here = str(Path.cwd())
    if allowed and here not in sys.path:
        sys.path.append(here)


def unknown(field: str, name: object, what: str, registry: Registry[Any] | Attacks[Any]) -> Fault:
    """Returns the fault of a name that a registry does not know."""
    text = str(name or "")
    if ":" in text:
        problem = registry.problem(text)
        return Fault(field, name, problem, "" if registry.code_allowed else PERMIT)
    return Fault(field, name, f"no such {what}", ", ".join(registry), nearest(text, registry))
