"""`orchestrator show`: a recipe, checked, with every default written out."""

from __future__ import annotations

import argparse

from ..recipe.recipe import to_yaml
from . import common
from .ending import print_json


def main(args: argparse.Namespace) -> int:
    recipe = common.load(args)
    if args.json:
        print_json(recipe.document)
    else:
        print(to_yaml(recipe), end="")
    return 0
