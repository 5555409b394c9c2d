"""`orchestrator search`: hyperparameters of a method under a budget, the best of them measured on
the test fold."""

from __future__ import annotations

import argparse
import sys

from rich.table import Table

from ..base.documents import SearchDocument
from ..base.errors import EXIT_OK, EXIT_UNITS_FAILED
from ..base.text import varying_names
from ..experiments.search import SearchResult, beyond_bound, search
from ..report import words
from . import common, printing
from .ending import print_json
from .run import print_table, run_options


def main(args: argparse.Namespace) -> int:
    recipe = common.load(args)
    result = search(recipe, run_options(args, recipe.name))
    with printing.shown():
        if args.json:
            print_json(result.document)
        else:
            print_search(result)
    complete = result.run is not None and not result.run.failed and result.document["winner"] is not None
    return EXIT_OK if complete else EXIT_UNITS_FAILED


def print_search(result: SearchResult) -> None:
    """Prints the chosen settings with what search and test fold say of them, and the result table
    of the run."""
    console = printing.console(160, soft_wrap=not sys.stdout.isatty())
    document = result.document
    if result.run is not None:
        print_table(result.run)
        console.print(_table(document))
    for note in filter(None, (*document["notes"], beyond_bound(document))):
        print(note)
    counts = {status: sum(t["status"] == status for t in document["trials"]) for status in ("finished", "stopped")}
    failed = len(document["trials"]) - sum(counts.values())
    print(
        f"search: {len(document['trials'])} settings, {counts['finished']} measured on all models, {counts['stopped']} stopped "
        f"early, {failed} failed: {result.folder / 'search.json'}"
    )
    if result.run is not None:
        print(f"figure: {result.folder / 'figures' / 'pareto.svg'}")
    for trial in document["trials"]:
        if trial["status"] == "failed":
            print(f"failed: {trial['params']}: {trial['why']}", file=sys.stderr)


def _table(document: SearchDocument) -> Table:
    def text(value: float | None, form: str) -> str:
        return words.NOT_MEASURABLE if value is None else format(value, form)

    names = varying_names([trial["params"] for trial in document["trials"]])
    table = Table(title=f"Search for {document.get('title') or document['method']}: settings that no other one beats")
    for heading in ("", "setting", "search |AUC−½|", "error rise", "test-fold AUC", "|AUC−½|", "error rise"):
        table.add_column(heading, justify="left" if heading in ("", "setting") else "right")
    for method, final in zip(document["methods"], document.get("final", []), strict=True):
        params = {k: v for k, v in method.items() if k != "name"}
        trial = next(trial for trial in document["trials"] if trial["params"] == params)
        table.add_row(
            "★ winner" if trial.get("winner") else "",
            words.parameters_text(params, names),
            text(trial["auc_gap"], ".3f"),
            text(trial["error_rise"], "+.2f"),
            words.with_interval(final["auc"], final["auc_interval"], "fraction"),
            text(final["auc_gap"], ".3f"),
            text(final["error_test_rise"], "+.2f"),
        )
    return table
