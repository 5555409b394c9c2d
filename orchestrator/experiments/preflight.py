"""What is tried before the first unit runs, so that nobody waits hours for an early mistake."""

from __future__ import annotations

import contextlib
import importlib.util
import os

from torch import nn

from attack import ATTACKS

from ..base.errors import EnvironmentFault, Fault, RecipeError, UserError, one_line
from ..base.values import digest
from ..plan.data import ExperimentData
from ..recipe.sections import Recipe
from ..store import Store
from ..work.context import Context
from ..work.first_look import look_at, remarks


def preflight(recipe: Recipe, store: Store) -> None:
    """Tries the attacks' packages and the store.

    **Raises:** `EnvironmentFault` where a package is missing or the store does not give back what
    is written.
    """
    for attack in recipe.attacks:
        try_packages(attack.name)
    try_store(store)


def try_packages(attack: str) -> None:
    """Raises `EnvironmentFault` where a package that an attack imports is not installed."""
    for package in ATTACKS[attack].packages:
        if importlib.util.find_spec(package) is None:
            raise EnvironmentFault(
                f"attacks: {attack!r} needs the package {package!r}, which is not installed; "
                "pip install 'unlearning-orchestrator[cpu]', or [gpu] on a GPU machine"
            )


def try_model(recipe: Recipe, data: ExperimentData, *, allow_factory: bool = False) -> list[str]:
    """Builds the recipe's model and tries it; returns what a user should know of it.

    **Raises:** `RecipeError` where the user's own code fails; `UserError` where the model cannot be
    worked with.
    """
    context = Context(None, data, allow_factory=allow_factory)
    model = new_model(recipe, context)
    return remarks(look_at(model, context, [point.method for point in recipe.methods]))


def new_model(recipe: Recipe, context: Context) -> nn.Module:
    """Returns the recipe's model, freshly initialised; raises `RecipeError` where the user's own
    code fails."""
    try:
        return context.new_model(recipe.model, recipe.seed)
    except UserError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise RecipeError([Fault("model.name", recipe.model.name, one_line(error))], recipe.name) from error


def try_store(store: Store) -> None:
    """Writes a small object, reads it back and removes it; raises `EnvironmentFault` where that
    fails.
    """
    key = digest(os.urandom(16).hex())
    with store.attempt(key) as attempt:
        attempt.path("probe").write_text("probe")
        attempt.commit({"kind": "probe"})
    try:
        found = store.fetch(key, "probe").read_text()
    except (OSError, KeyError) as error:
        raise EnvironmentFault(f"store {store.uri}: what is written cannot be read back ({error})") from error
    finally:
        with contextlib.suppress(OSError):  # what went wrong before says more
            store.remove(key)
    if found != "probe":
        raise EnvironmentFault(f"store {store.uri}: what is written comes back changed; check its disk")
