"""`orchestrator league`: methods tuned with equal budgets, ranked beside doing nothing and
Retrain."""

from __future__ import annotations

import argparse
import sys

from rich.table import Table

from ..base.documents import LeagueDocument
from ..base.errors import EXIT_OK, EXIT_UNITS_FAILED
from ..experiments.league.league import LeagueResult, league
from ..report import league_tables
from . import common, printing
from .ending import print_json
from .run import run_options


def main(args: argparse.Namespace) -> int:
    recipe = common.load(args)
    result = league(recipe, run_options(args, recipe.name))
    with printing.shown():
        if args.json:
            print_json(result.document)
        else:
            print_league(result)
    complete = not result.run.failed and all(each["winner"] is not None for each in result.document["tuned"])
    return EXIT_OK if complete else EXIT_UNITS_FAILED


def print_league(result: LeagueResult) -> None:
    """Prints the table, what may not be concluded, and where the page is."""
    document = result.document
    console = printing.console(160, soft_wrap=not sys.stdout.isatty())
    console.print(_table(document))
    for line in (*document["notes"], "What may not be concluded:", *(f"- {text}" for text in document["cautions"])):
        print(line)
    print(f"league: {result.folder / 'league.json'}")


SHOWN = ("klom/p95", "error_forget", "error_retain", "error_test", "average_gap", "seconds_per_model")


def _table(document: LeagueDocument) -> Table:
    table = Table(
        title=f"League {document['recipe']}: {document['compared']} pairs compared; * outside the band of chance"
    )
    first = document["columns"][0]
    shown = [name for name in document["columns"] if name in SHOWN or name == first]
    left = ("group", "place", "method", "no place since")
    for heading in (*left[:3], *map(league_tables.heading, shown), left[3]):
        table.add_column(heading, justify="left" if heading in left else "right")
    previous = ""
    for row in document["rows"]:
        group = row["group"] if row["group"] != previous else ""
        previous = row["group"]
        numbers = [league_tables.number(row["cells"][name], name) for name in shown]
        early = " (stopped early)" if row["stopped_early"] else ""
        table.add_row(group, league_tables.place(row), f"{row['title']}{early}", *numbers, row["why"])
    return table
