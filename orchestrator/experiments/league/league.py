"""A whole league: tuning, a first look, the run of the winners, the table. Running it again does
only what is missing, and ends with the same table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attack.metrics.row import Row
from unlearn import METHODS

from ...base.documents import LeagueDocument, Tuned
from ...base.files import write_synced
from ...base.values import Json, finite, plain
from ...engine.base import Engine
from ...plan.league import LeaguePlan, check_league, chosen
from ...plan.plan import make_plan
from ...plan.units import Unit
from ...recipe.options import option_names
from ...recipe.sections import Recipe
from ...records.folder import OutputFolder
from ...records.progress import Progress
from ..preflight import preflight, try_model
from ..run import RunResult, run
from ..selection import choose_forget_set
from ..stages import RunOptions, Stages, open_data
from ..taken import taken
from .looks import FirstLook, looks_of, take
from .table import build
from .tuning import Tuning

FILE, PAGE = "league.json", "league.html"


@dataclass
class LeagueResult:
    """What a league came to: the document of `league.json`, and the run of the winners."""

    document: LeagueDocument
    folder: Path
    run: RunResult


def league(recipe: Recipe, options: RunOptions) -> LeagueResult:
    """Plays the league that a recipe's `league` section asks for.

    **Raises:** `RecipeError` before anything is started where the section does not fit.
    `SearchFailed` where shadow models or attackers fail. `EnvironmentFault` where storage, cluster
    or disk fail. A method that fails is a row that says why.
    """
    plan = check_league(recipe)
    with taken(recipe, options) as (folder, progress):
        tuned, first = _Preparation(plan, options, folder, progress).execute()
    final = chosen(recipe, _methods(plan, tuned), first.measured)
    result = run(final, options, tuned=tuned)
    ended = replace(plan, league=plan.league.model_copy(update={"measured": first.measured}))
    rows = [Row.from_json(row) for row in result.document["rows"]]
    document = finite(build(ended, rows, tuned, first.calls, looks_of(plan)))
    _write(folder, document)
    return LeagueResult(document, folder.path, result)


class _Preparation:
    """Everything before the run of the winners."""

    def __init__(self, plan: LeaguePlan, options: RunOptions, folder: OutputFolder, progress: Progress):
        self.plan = plan
        self.options = options
        self.folder = folder
        self.progress = progress
        self.stages = Stages(folder, progress)
        self._engine: Engine | None = None

    def execute(self) -> tuple[list[Tuned], FirstLook]:
        recipe, options = self.plan.recipe, self.options
        choose_forget_set(recipe, options, self.folder, self.progress)
        self.store, self.data = open_data(recipe, options, self.folder, self.progress)
        try_model(recipe, self.data, allow_factory=options.allow_factory)
        self.folder.write_recipe(recipe, self.store.uri)
        self.folder.log_begin(recipe.name)
        tuning = Tuning(self.plan, self.data, self.store, self.stages, self._start, self.progress.say)
        try:
            tuned = tuning.tune()
            first = self._first_look(tuning, tuned)
        finally:
            if self._engine is not None:
                self._engine.close()
        for each in tuned:
            self.progress.say(_told(each))
        return tuned, first

    def _first_look(self, tuning: Tuning, tuned: Sequence[Tuned]) -> FirstLook:
        if looks_of(self.plan) < 2:
            return FirstLook((), {})
        whole = make_plan(chosen(self.plan.recipe, _methods(self.plan, tuned), {}), self.data)

        def make(units: Sequence[Unit]) -> None:
            everything = {need.key: need for unit in units for need in unit.ancestors().values()}
            tuning.make([*everything.values(), *units])

        first = take(self.plan, whole, self.store, make)
        if first.measured:
            self.progress.say(f"league: the place of {', '.join(first.measured)} is certain: not measured further")
        return first

    def _start(self) -> Engine:
        """Returns where units run, started at the first that is missing."""
        if self._engine is None:
            preflight(self.plan.recipe, self.store)
            self._engine = self.stages.start(self.plan.recipe, self.options, self.data, self.store)
        return self._engine


def _methods(plan: LeaguePlan, tuned: Sequence[Tuned]) -> list[dict[str, Json]]:
    """Returns the winners as a recipe gives them, once for each unlearning seed where a method has
    one."""
    found: list[dict[str, Json]] = []
    for each in tuned:
        if each["winner"] is None:
            continue
        options = {name: plain(value) for name, value in each["winner"].items()}
        if plan.league.seeds == 1 or "seed" not in option_names(METHODS[each["method"]]):
            found.append(options)
            continue
        first = options.get("seed", 0)
        base = first if isinstance(first, int) else 0
        found += [{**options, "seed": base + seed} for seed in range(plan.league.seeds)]
    return found


def _told(tuned: Tuned) -> str:
    spent = tuned["spent"]
    effort = f"{spent['settings']} settings, {spent['models']} models, {spent['seconds']:.0f} s"
    if tuned["winner"] is None:
        return f"  {tuned['method']}: no setting could be measured: {tuned['why']} ({effort})"
    best = next(trial for trial in tuned["trials"] if trial["winner"])
    beyond = "" if tuned["within_bound"] else ", beyond the bound"
    return f"  {tuned['method']}: distance {best['distance']:.3f} with {best['source']}{beyond} ({effort})"


def _write(folder: OutputFolder, document: LeagueDocument) -> None:
    """Writes `league.json`, page, tables and figures, where they are not there already."""
    content = json.dumps(document, indent=1, ensure_ascii=False).encode()
    path = folder.path / FILE
    if path.is_file() and path.read_bytes() == content and (folder.path / PAGE).is_file():
        return
    write_synced(path, content)
    from ...report.league_page import write_league  # Matplotlib takes seconds to import

    folder.seal([path, *write_league(folder.path)])
