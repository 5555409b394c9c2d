"""`orchestrator schema`: the JSON Schema of recipes, for editors."""

from __future__ import annotations

import argparse

from ..recipe.schema import recipe_schema
from .ending import print_json


def main(args: argparse.Namespace) -> int:
    print_json(recipe_schema())
    return 0
