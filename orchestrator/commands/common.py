"""The recipe that several commands take."""

from __future__ import annotations

import argparse

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
