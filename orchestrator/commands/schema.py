"""`orchestrator schema`: the JSON Schema of recipes, for editors."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the schema is JSON in any case")


def main(args: argparse.Namespace) -> int:
    from ..recipe.schema import recipe_schema
    from .common import print_json

    print_json(recipe_schema())
    return 0
