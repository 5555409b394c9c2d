"""`orchestrator recipes`: the recipes that come with the package."""

from __future__ import annotations

import argparse

from ..recipe.files import read_document, shipped_recipes
from .ending import print_json


def main(args: argparse.Namespace) -> int:
    documents = {name: read_document(name) for name in shipped_recipes() if not name.startswith("_")}
    found = {
        name: str(document.get("description", "")) if isinstance(document, dict) else ""
        for name, document in documents.items()
    }
    if args.json:
        print_json(found)
        return 0
    width = max(len(name) for name in found)
    for name, description in found.items():
        print(f"{name:<{width}}  {description}")
    return 0
