"""Hyperparameter search: settings compared on the validation fold under ASHA, the best of them
measured on the test fold.

Everything is made of units, so a search that was killed goes on where it was, and what it unlearned
serves other recipes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attack.metrics.row import metric_name
from unlearn import METHODS
from unlearn.core.rounding import within

from ..base.documents import FinalRow, Results, SearchDocument, Trial
from ..base.errors import EXIT_UNITS_FAILED, UserError
from ..base.files import write_synced
from ..base.text import first_of, varying_names
from ..base.values import finite
from ..engine.base import Engine, SettingReport
from ..plan.objective import BROKEN, FAILED, FINISHED, STOPPED, Measured, front_of, winner_of
from ..plan.plan import check_stored_models
from ..plan.search import BOUND, FOLD, MEASURED_ERROR, SearchPlan, bound_of, check_search, plan_search
from ..plan.units import Outcome, Unit
from ..recipe.options import plain
from ..recipe.recipe import changed
from ..recipe.sections import Recipe
from ..records.folder import OutputFolder
from ..records.progress import Progress
from ..store import Store
from .outputs import write_outputs
from .preflight import preflight, try_model
from .run import RunResult, run
from .selection import choose_forget_set
from .stages import INLINE, RunOptions, Stages, open_data
from .taken import taken

SCHEMA_VERSION = 1
FILE = "search.json"
FEW_MODELS = 8
OPTIMISTIC = (
    "The attacker was tuned on the validation fold, and the settings were chosen there: the search's own numbers are slightly "
    "optimistic. The chosen settings are measured anew on the test fold, whose models the search never saw."
)
MEASURED_ON = (
    "The search measures errors on the validation half of the test images; results report the other half. Rises are over the same "
    "models before unlearning."
)


class SearchFailed(UserError):
    """Shadow models or attackers that every setting needs could not be made."""

    exit_code = EXIT_UNITS_FAILED


@dataclass
class SearchResult:
    """What a search came to: the document of `search.json`, and the run of the chosen settings,
    None where there are none.
    """

    document: SearchDocument
    folder: Path
    run: RunResult | None


def search(recipe: Recipe, options: RunOptions) -> SearchResult:
    """Searches as the recipe's `search` section says, then runs the chosen settings as ordinary
    methods.

    **Raises:** `RecipeError` before anything is started where the section does not fit.
    `SearchFailed` where shadow models or attackers fail. `EnvironmentFault` where storage, cluster
    or disk fail. Settings that fail are trials that say why.
    """
    document = find(recipe, options)
    folder = options.output
    if not document["methods"]:
        return SearchResult(document, folder, None)
    if not _is_drawn(folder, document):
        (folder / "report.html").unlink(missing_ok=True)  # the run below draws it again
    result = run(changed(recipe, methods=document["methods"]), options)
    document["final"] = final_rows(document, result.document)
    _write(folder, document)
    return SearchResult(document, folder, result)


def find(recipe: Recipe, options: RunOptions) -> SearchDocument:
    """Compares settings on the validation fold and writes `search.json`; touches no model of the
    test fold.

    A search that was finished before is read back. Raises as `search`.
    """
    if options.address == INLINE and read(options.output) is None:
        raise _needs_ray()
    with taken(recipe, options) as (folder, progress):
        return _Search(recipe, options, folder, progress).find()


def final_rows(document: SearchDocument, results: Results) -> list[FinalRow]:
    """Returns what the test fold says of the chosen settings, in the order of
    `document["methods"]`.
    """
    rows = results["rows"]
    before = next(row["metrics"].get("error_test") for row in rows if row["method"] == "no_unlearn")
    auc_name = metric_name(document["attack"], "auc")
    found: list[FinalRow] = []
    for method in document["methods"]:
        params = {k: v for k, v in method.items() if k != "name"}
        row = next(row for row in rows if row["method"] == method["name"] and row["params"] == params)
        metrics = row["metrics"]
        auc = metrics.get(auc_name)
        error = metrics.get("error_test")
        rise = None if error is None or before is None else error - before
        found.append(
            {
                "params": params,
                "status": row["status"],
                "auc": auc,
                "auc_interval": row["ci"].get(auc_name),
                "auc_gap": None if auc is None else abs(auc - 0.5),
                "error_test": error,
                "error_test_rise": rise,
                "within_bound": None if rise is None else within(rise, document["bound"]),
            }
        )
    return found


def beyond_bound(document: SearchDocument) -> str:
    """Returns the remark that the winner did not keep the bound on the test fold, empty where it
    did.
    """
    winner = next(iter(document.get("final", ())), None)
    if document["winner"] is None or winner is None or winner["within_bound"] is not False:
        return ""
    return (
        f"On the test fold the winner's test error rises by {winner['error_test_rise']:.2f} points, beyond the bound of "
        f"{document['bound']:g}. It was chosen on other models and other images."
    )


class _Search:
    def __init__(self, recipe: Recipe, options: RunOptions, folder: OutputFolder, progress: Progress):
        self.recipe = recipe
        self.search = check_search(recipe)
        self.options = options
        self.folder = folder
        self.progress = progress
        self.stages = Stages(folder, progress)

    def find(self) -> SearchDocument:
        choose_forget_set(self.recipe, self.options, self.folder, self.progress)
        store, data = open_data(self.recipe, self.options, self.folder, self.progress)
        plan = plan_search(self.recipe, data)
        check_stored_models(plan.plan, sum(store.has(unit.key) for unit in plan.plan.stages["train"]))
        known = read(self.folder.path)
        if known is not None and known["key"] == plan.key:
            self.progress.say(f"search: all {len(known['trials'])} settings already settled")
            return known
        if self.options.address == INLINE:
            raise _needs_ray()
        self.folder.write_recipe(self.recipe, store.uri)
        self.folder.log_begin(self.recipe.name)
        models = len(plan.references)
        if models < FEW_MODELS:
            self.progress.say(few_models(models))
        try_model(self.recipe, data, allow_factory=self.options.allow_factory)
        preflight(self.recipe, store)
        engine = self.stages.start(
            self.recipe,
            self.options,
            data,
            store,
            lambda: write_outputs(plan.plan, store, self.folder.path / "outputs"),
        )
        try:
            self._prepare(plan, store, engine)
            trials = self._settle(plan, engine)
        finally:
            engine.close()
        document = self._document(plan, store, trials)
        _write(self.folder.path, document)
        return document

    def _prepare(self, plan: SearchPlan, store: Store, engine: Engine) -> None:
        """Makes what the settings share: models and attackers of the attacker's folds, never of the
        test fold.
        """
        units = {
            "train": plan.models,
            # Moments and bases now, once each: two settings that need the same one would both make
            # it.
            "unlearn": plan.shared,
            "outputs": (*plan.population, *plan.references),
            "attack": plan.attackers,
            "score": (plan.baseline,),
        }
        stored = store.committed({unit.key for some in units.values() for unit in some})
        missing = {stage: [unit for unit in some if unit.key not in stored] for stage, some in units.items()}
        reused = {stage: len(some) - len(missing[stage]) for stage, some in units.items()}
        failed: list[Outcome] = []

        def listen(unit: Unit, outcome: Outcome) -> None:
            if outcome.failed:
                failed.append(outcome)

        self.stages.run(missing, reused, lambda: engine, listen)
        if failed:
            why = first_of([f"{each.name}: {each.error}" for each in failed])
            raise SearchFailed(f"{self.recipe.name}: every setting needs what failed: {why}")

    def _settle(self, plan: SearchPlan, engine: Engine) -> list[Trial]:
        from ..engine.ray.search_trials import run_settings  # imports Ray

        models = len(plan.references)
        most = sum(len(step.units()) for setting in plan.settings for step in setting.steps)
        self.progress.say(
            f"search: {len(plan.settings)} settings on up to {models} models each, stopped early by ASHA from "
            f"{self.search.grace} on"
        )
        self.folder.append_event({"event": "stage_start", "stage": "search", "units": most, "reused": 0})
        book = _Book(plan, self.search.reduction, self.folder, self.progress)
        with self.stages.timed("search"):
            run_settings(engine, plan.settings, plan.references, self.search, book)
        return book.trials

    def _document(self, plan: SearchPlan, store: Store, trials: list[Trial]) -> SearchDocument:
        winner, front = winner_of(trials), front_of(trials)
        chosen = [winner, *(i for i in front if i != winner)] if winner is not None else front
        for index, trial in enumerate(trials):
            trial["pareto"], trial["winner"] = index in front, index == winner
        models = len(plan.references)
        auc = float(store.meta(plan.baseline.key)["metrics"]["auc"])
        errors = [float(store.meta(unit.key)["errors"][MEASURED_ERROR]) for unit in plan.references]
        notes = [OPTIMISTIC, MEASURED_ON]
        if models < FEW_MODELS:
            notes.append(few_models(models))
        if winner is None:
            notes.append(no_winner(trials, bound_of(self.search)))
        name = str(self.search.method["name"])
        document: SearchDocument = {
            "schema": SCHEMA_VERSION,
            "key": plan.key,
            "recipe": self.recipe.name,
            "search": self.search.model_dump(mode="json"),
            "method": name,
            "title": METHODS[name].card.title,
            "attack": plan.baseline.label.attack,
            "fold": FOLD,
            "models": models,
            "bound": bound_of(self.search),
            "no_unlearn": {"auc": auc, "auc_gap": abs(auc - 0.5), "error": sum(errors) / models},
            "trials": trials,
            "winner": winner,
            "front": front,
            "methods": [{"name": name, **trials[i]["params"]} for i in chosen],
            "notes": notes,
        }
        return finite(document)


class _Book:
    """Keeps account of the trials, in the log of events and in records for `search.json`."""

    def __init__(self, plan: SearchPlan, reduction: float, folder: OutputFolder, progress: Progress):
        self._models = len(plan.references)
        self._reduction = reduction
        self._folder = folder
        self._progress = progress
        self._logged: set[str] = set()
        self._settled = 0
        self._names = varying_names([setting.params for setting in plan.settings])
        self.trials: list[Trial] = [
            {
                "params": {name: plain(value) for name, value in setting.params.items()},
                "models": 0,
                "objective": None,
                "auc": None,
                "auc_gap": None,
                "error": None,
                "error_rise": None,
                "within_bound": None,
                "status": BROKEN,
                "why": "not tried",
            }
            for setting in plan.settings
        ]

    def reported(self, trial: int, report: SettingReport, node: str) -> None:
        for outcome in report.outcomes:
            if outcome.key not in self._logged:
                self._logged.add(outcome.key)
                self._folder.log_outcome("search", outcome)
        record = self.trials[trial]
        if report.measured is None:
            record["status"], record["why"], record["objective"] = BROKEN, report.failed, FAILED
            return
        _note(record, report.measured)
        if report.measured.models == self._models:
            record["status"], record["why"] = FINISHED, ""
        else:
            share = f"{100 / self._reduction:.0f} %"
            why = f"ASHA stopped it after {report.measured.models} of {self._models} models: not in the best {share} so far"
            record["status"], record["why"] = STOPPED, why

    def lost(self, trial: int) -> None:
        return None

    def ended(self, trial: int, problem: str) -> None:
        record = self.trials[trial]
        if problem:
            record["status"], record["why"] = BROKEN, f"its worker crashed: {problem}"
        self._settled += 1
        self._progress.say(f"  {self._settled}/{len(self.trials)} {describe(record, self._names)}")


def _note(record: Trial, measured: Measured) -> None:
    """Writes into a trial's record what is known of its setting."""
    record["models"] = measured.models
    record["auc"], record["auc_gap"] = measured.auc, measured.auc_gap
    record["error"], record["error_rise"] = measured.error, measured.error_rise
    record["objective"], record["within_bound"] = measured.objective, measured.within_bound


def describe(trial: Trial, names: Sequence[str]) -> str:
    """Returns one line about a trial; `names`: the parameters that tell it from others."""
    params = ", ".join(f"{name}={value}" for name, value in trial["params"].items() if name in names)
    if trial["status"] == BROKEN:
        return f"{params}: failed: {trial['why']}"
    rise = f"error {trial['error_rise']:+.2f} points"
    beyond = "" if trial["within_bound"] else ", beyond the bound"
    models = f"{trial['models']} model{'s' if trial['models'] != 1 else ''}"
    return f"{params}: {trial['status']} on {models}: |AUC − 0.5| {trial['auc_gap']:.3f}, {rise}{beyond}"


def few_models(models: int) -> str:
    """Returns the remark that so few models cannot tell near settings apart."""
    return (
        f"The validation fold has {models} models: differences between near settings may be chance; a larger middle number of "
        "shadows.split makes the choice surer."
    )


def no_winner(trials: Sequence[Trial], bound: float | None) -> str:
    """Returns why there is no winner."""
    finished = sum(trial["status"] == FINISHED for trial in trials)
    if not finished:
        return f"No winner: none of the {len(trials)} settings was measured on all models."
    return (
        f"No winner: none of the {finished} settings that were measured on all models stays within the bound of {bound:g} points; "
        f"raise search.bound.{BOUND}, widen the ranges or try more samples."
    )


def _needs_ray() -> UserError:
    return UserError("--address inline: a search runs on Ray Tune; allowed: local, auto, HOST:PORT")


def read(folder: Path) -> SearchDocument | None:
    """Returns the search that lies in a folder; None where there is none that can be read."""
    try:
        document: SearchDocument = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and document.get("schema") == SCHEMA_VERSION else None


def _write(folder: Path, document: SearchDocument) -> None:
    write_synced(folder / FILE, json.dumps(finite(document), indent=1, ensure_ascii=False).encode())


def _is_drawn(folder: Path, document: SearchDocument) -> bool:
    """Whether the page in the folder already shows this search: its final rows are written after
    the page.
    """
    return "final" in document and (folder / "figures" / "pareto.svg").is_file()
