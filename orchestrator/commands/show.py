"""`orchestrator show`: a recipe, checked, with every default written out."""

from __future__ import annotations

import argparse

from . import common


def arguments(parser: argparse.ArgumentParser) -> None:
    common.recipe_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of YAML")


def main(args: argparse.Namespace) -> int:
    from ..recipe.recipe import to_yaml
    from .common import print_json

    recipe = common.load(args)
    if args.json:
        print_json(recipe.document)
    else:
        print(to_yaml(recipe), end="")
    return 0
