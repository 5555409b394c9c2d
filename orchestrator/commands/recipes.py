"""`orchestrator recipes`: the recipes that come with the package."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(args: argparse.Namespace) -> int:
    from ..recipe.files import read_document, shipped_recipes
    from .common import print_json

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
