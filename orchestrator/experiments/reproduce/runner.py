"""Runs the experiments of items into one folder with one store, and writes what came of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from attack.metrics.measure import Measure

from ...base.files import write_synced
from ...base.values import finite
from ...recipe.recipe import load_recipe
from ...recipe.sections import Recipe
from ...records import ownership
from ...records.folder import OutputFolder
from ...records.ownership import Owner
from ...report.figures.drawing import render
from ..run import RunOptions, run
from . import page
from .claim_pages import claim_pages, page_name
from .claims import OPEN, Verdict
from .item import Cell, Experiments, Finding, Item, Run
from .measure import Experiment

Say = Callable[[str], None]


def recipe_of(planned: Run, size: str, overrides: Sequence[str] = ()) -> Recipe:
    """Returns the checked recipe of one experiment."""
    return load_recipe(f"{planned.recipe}-{size}", [*planned.settings(size), *overrides])


def run_items(
    items: Sequence[Item],
    size: str,
    folder: Path,
    *,
    catalogue: Sequence[Item] = (),
    overrides: Sequence[str] = (),
    store: str | None = None,
    address: str | None = None,
    quiet: bool = False,
    force: bool = False,
    say: Say = print,
) -> tuple[list[Finding], int]:
    """Runs what is missing of every item's experiments and writes the page after each item.

    The page holds every item of `catalogue` that was ever finished in the folder, in that order. So
    items can be run one by one.

    **Returns:** a finding for each item, and how many rows of all experiments failed.

    **Raises:** `RecipeError` before anything starts where a recipe does not fit; as
    `experiment.run` else.
    """
    planned: dict[str, Run] = {each.name: each for item in items for each in item.runs}
    recipes = {name: recipe_of(each, size, overrides) for name, each in planned.items()}
    home = OutputFolder(folder)
    home.take(Owner.of_reproduction(size), force)
    try:
        for name, recipe in recipes.items():
            ownership.check(folder / name, Owner.of_recipe(recipe), force)
        options = RunOptions(folder, store or str(folder / "store"), address, quiet, force=force)
        return _run_items(items, size, recipes, options, catalogue, say)
    finally:
        home.unlock()


def _run_items(
    items: Sequence[Item],
    size: str,
    recipes: dict[str, Recipe],
    options: RunOptions,
    catalogue: Sequence[Item],
    say: Say,
) -> tuple[list[Finding], int]:
    folder = options.output
    experiments: dict[str, Experiment] = {}
    findings: list[Finding] = []
    before = finished_before(folder, catalogue, {item.name for item in items}, say)
    failed = 0
    for place, item in enumerate(items, start=1):
        say(f"[{place}/{len(items)}] {item.title}")
        for each in item.runs:
            if each.name in experiments:
                continue
            started = time.monotonic()
            result = run(recipes[each.name], replace(options, output=folder / each.name))
            failed += result.failed
            work = result.document["environment"]["work"]
            say(
                f"    {each.name}: {work['units_executed']} units executed, {work['units_reused']} reused, "
                f"{time.monotonic() - started:.0f} s"
            )
            experiments[each.name] = Experiment.load(each.name, folder / each.name)
        findings.append(assess(item, {each.name: experiments[each.name] for each in item.runs}))
        told = {finding.item.name: finding for finding in [*before, *findings]}
        order = [item.name for item in catalogue] or list(told)
        write_findings([told[name] for name in order if name in told], size, folder)
    return findings, failed


def finished_before(folder: Path, catalogue: Sequence[Item], asked: Collection[str], say: Say) -> list[Finding]:
    """Returns findings of items that are not asked for and whose experiments are in the folder."""
    found = []
    for item in catalogue:
        if item.name in asked or not all((folder / each.name / "results.json").is_file() for each in item.runs):
            continue
        try:
            experiments = {each.name: Experiment.load(each.name, folder / each.name) for each in item.runs}
            found.append(assess(item, experiments))
        except (OSError, ValueError, KeyError) as error:
            say(f"{item.name}: its results cannot be read and are left out ({type(error).__name__}: {error})")
    return found


def assess(item: Item, experiments: Experiments) -> Finding:
    """Computes an item's table and the verdict on each of its claims."""
    verdicts = []
    for claim in item.claims:
        try:
            verdict = claim.test(experiments)
        except (KeyError, TypeError, ValueError) as error:
            verdict = Verdict(OPEN, f"could not be computed: {type(error).__name__}: {error}")
        verdicts.append((claim.text, verdict))
    return Finding(item, item.compare(experiments), tuple(verdicts), experiments)


def write_findings(findings: Sequence[Finding], size: str, folder: Path) -> None:
    """Writes tables, figures, `reproduce.json`, `README.md` and `index.html` into `folder`."""

    def write(path: Path, content: str | bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(path, content if isinstance(content, bytes) else content.encode())

    drawings = {}
    for finding in findings:
        name = finding.item.name
        drawings[name] = [render(figure) for figure in finding.item.figures(finding.experiments)]
        for drawing in drawings[name]:
            for path, content in drawing.files.items():
                write(folder / path, content)
        if finding.comparison is not None:
            for ending, make in page.FORMATS.items():
                write(folder / "tables" / f"{name}.{ending}", make(finding.comparison))
    others = {finding.item.name: finding for finding in findings}
    for finding in findings:
        for name, text in claim_pages(finding, size, others).items():
            write(folder / name, text)
    write(folder / "reproduce.json", json.dumps(document(findings, size), indent=1))
    write(folder / "README.md", page.markdown(findings, size))
    write(folder / "index.html", page.html(findings, size, drawings))


def document(findings: Sequence[Finding], size: str) -> dict[str, object]:
    """Returns everything as one JSON document."""

    def plain(cell: Cell) -> object:
        if isinstance(cell, Measure):
            return {"value": cell.value, "ci": cell.interval} if cell.known else None
        return cell

    items = [
        {
            "item": finding.item.name,
            "title": finding.item.title,
            "columns": list(finding.comparison.columns) if finding.comparison else [],
            "rows": [[plain(cell) for cell in row] for row in finding.comparison.rows] if finding.comparison else [],
            "claims": [
                {
                    "claim": text,
                    "verdict": verdict.word,
                    "because": verdict.because,
                    "needed": verdict.needed,
                    "by_auc": verdict.published,
                    "page": page_name(finding, number),
                }
                for number, (text, verdict) in enumerate(finding.verdicts, start=1)
            ],
            "seconds": round(finding.seconds, 1),
            "git": [experiment.environment.get("git", {}) for experiment in finding.experiments.values()],
        }
        for finding in findings
    ]
    return finite({"schema": 1, "size": size, "items": items})
