"""`orchestrator recipes`: the recipes that come with the package."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(args: argparse.Namespace) -> int:
    import yaml

    from ..cli import print_json
    from ..recipe import shipped_recipes

    found = {
        name: str(yaml.safe_load(path.read_text(encoding="utf-8")).get("description", ""))
        for name, path in shipped_recipes().items()
    }
    if args.json:
        print_json(found)
        return 0
    width = max(len(name) for name in found)
    for name, description in found.items():
        print(f"{name:<{width}}  {description}")
    return 0
