"""`orchestrator run`: a whole experiment."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from ..base.errors import EXIT_OK, EXIT_UNITS_FAILED
from ..experiments.run import RunOptions, RunResult, run
from ..report.show import terminal_table
from . import common, printing
from .ending import print_json


def main(args: argparse.Namespace) -> int:
    recipe = common.load(args)
    common.say_what_is_left_out(recipe, "run")
    options = replace(run_options(args, recipe.name), fresh=frozenset(args.fresh))
    return present(run(recipe, options), as_json=args.json)


def run_options(args: argparse.Namespace, name: str) -> RunOptions:
    """Returns how and where to run, as the arguments say it. `name`: of the default folder."""
    return RunOptions(
        output=args.output or Path("runs") / name,
        store=args.store,
        address=args.address,
        quiet=args.quiet,
        allow_factory=args.allow_factory,
        force=args.force,
    )


def present(result: RunResult, as_json: bool) -> int:
    """Prints what a run came to and returns its exit code."""
    with printing.shown():
        if as_json:
            print_json(result.document)
        else:
            print_table(result)
    return EXIT_UNITS_FAILED if result.failed else EXIT_OK


def print_table(result: RunResult) -> None:
    """Prints the result table and where the rest lies."""
    console = printing.console(160, soft_wrap=not sys.stdout.isatty())
    console.print(terminal_table(result.document))
    work = result.document["environment"]["work"]
    print(f"{work['units_executed']} units executed, {work['units_reused']} reused")
    print(f"report: {result.folder / 'report.html'}")
    for row in result.document["rows"]:
        if row["status"] == "failed":
            print(
                f"failed: {row['method']} {row['params'] or ''}: {row['error']}; mend it and `orchestrator retry {result.folder}`",
                file=sys.stderr,
            )
