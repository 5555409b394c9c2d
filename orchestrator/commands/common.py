"""The recipe that several commands take."""

from __future__ import annotations

import argparse
import sys

from ..base.errors import RecipeError
from ..recipe.places import store_faults
from ..recipe.recipe import load_recipe
from ..recipe.sections import Recipe


def load(args: argparse.Namespace) -> Recipe:
    """Returns the recipe that the arguments name; raises `RecipeError` also for a --store with
    credentials in it."""
    faults = store_faults(getattr(args, "store", None))
    if faults:
        raise RecipeError(faults, "orchestrator")

    return load_recipe(args.recipe, args.overrides)


def say_what_is_left_out(recipe: Recipe, command: str) -> None:
    """Says which sections of the recipe are for another command than this one."""
    for name, section in (("search", recipe.search), ("league", recipe.league)):
        if section is not None:
            text = f"{name}: `{command}` leaves this section of the recipe out; `orchestrator {name}` is for it"
            print(text, file=sys.stderr)
