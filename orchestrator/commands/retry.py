"""`orchestrator retry`: run what failed, and what waits for it, again."""

from __future__ import annotations

import argparse

from ..base.errors import UserError, did_you_mean
from ..experiments.run import RunOptions, run
from ..records.folder import OutputFolder, open_whole
from ..records.state import units_named
from .run import present


def main(args: argparse.Namespace) -> int:
    folder = open_whole(args.folder)
    only: frozenset[str] | None = None
    if args.failed:
        only = frozenset(folder.failures())
        if not only:
            print("no unit has failed")
            return 0
    if args.units:
        only = _chosen(folder, args.units)
    options = RunOptions(
        output=folder.path,
        store=folder.store_uri(),
        address=args.address,
        quiet=args.quiet,
        only=only,
        allow_factory=args.allow_factory,
    )
    return present(run(folder.recipe(), options), as_json=args.json)


def _chosen(folder: OutputFolder, wanted: list[str]) -> frozenset[str]:
    names = {event["unit"]: event["name"] for event in folder.events("unit")}
    found: set[str] = set()
    for text in wanted:
        keys = units_named(text, names)
        if not keys:
            raise UserError(f"UNIT: {text!r}: no such unit was run here{did_you_mean(text, names.values())}")
        found.update(keys)
    return frozenset(found)
