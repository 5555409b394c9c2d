"""`orchestrator schema`: the JSON Schema of recipes, for editors."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the schema is JSON in any case")


def main(args: argparse.Namespace) -> int:
    from .cli import print_json
    from ..recipe.schema import recipe_schema

    print_json(recipe_schema())
    return 0
