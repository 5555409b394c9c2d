"""One experiment from recipe to report. Running it again does only what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.documents import Results, Tuned, Work
from ..base.errors import EnvironmentFault, Fault, RecipeError
from ..base.processes import peak_mib
from ..base.values import Record, canonical
from ..engine.base import Engine
from ..plan.data import ExperimentData, load_data
from ..plan.plan import check_stored_models, make_plan
from ..plan.rows import Plan, short
from ..plan.stages import STAGES
from ..plan.units import MODEL_KINDS, Outcome, Unit
from ..recipe.sections import Recipe
from ..records.folder import OutputFolder
from ..records.mlflow_writer import Tracker
from ..records.progress import Progress
from ..store import CorruptObject, open_store
from ..work.execute import HEAL_LIMIT
from .outputs import write_forget_set, write_outputs
from .preflight import preflight, try_model
from .results import collect, environment, write_results
from .selection import choose_forget_set
from .stages import INLINE, RunOptions, Stages, inline_engine, open_data
from .taken import taken

Extend = Callable[[Plan, ExperimentData], Plan]


@dataclass
class RunResult:
    """What a run came to."""

    document: Results
    folder: Path
    failed: int


def run(recipe: Recipe, options: RunOptions, extend: Extend | None = None, tuned: Sequence[Tuned] = ()) -> RunResult:
    """Runs `recipe` to the end and writes its output folder.

    **Arguments:** `extend`: adds units of its caller's to the plan. `tuned`: how a league chose the
    methods, for MLflow.

    **Raises:** `RecipeError` before anything is started where recipe and data do not fit;
    `EnvironmentFault` where storage, cluster or disk fail. Units that fail for their own reason do
    not raise: they are rows that say why.
    """
    with taken(recipe, options) as (folder, progress):
        made = choose_forget_set(recipe, options, folder, progress)
        return _Run(recipe, options, folder, progress, made, extend, tuned).execute()


class _Run:
    def __init__(
        self,
        recipe: Recipe,
        options: RunOptions,
        folder: OutputFolder,
        progress: Progress,
        made: frozenset[str] = frozenset(),
        extend: Extend | None = None,
        tuned: Sequence[Tuned] = (),
    ):
        """**Arguments:** `made`: keys of units that this invocation has executed already."""
        self.made = made
        self.recipe = recipe
        self.tuned = tuned
        self.options = options
        self.folder = folder
        self.progress = progress
        self.stages = Stages(folder, progress)
        self.store, self.data = open_data(recipe, options, folder, progress)
        for note in self.data.split.notes:
            progress.say(note)
        self.plan = make_plan(recipe, self.data)
        if extend is not None:
            self.plan = extend(self.plan, self.data)
        self._forget_stored(options.fresh)
        self.tracker = Tracker(recipe, self.plan, self.data, self.store, folder.path)
        self.work: Work = {"units_executed": len(made), "units_reused": 0}
        self.failures: dict[str, str] = {}
        self.engine: Engine | None = None
        self.where = "stored results"

    def execute(self) -> RunResult:
        stored = self._stored()
        if self.recipe.shadows.reuse_only:
            check_stored_models(self.plan, sum(unit.key in stored for unit in self.plan.stages["train"]))
        complete = all(unit.key in stored for unit in self.plan.units())
        if not complete:
            for remark in try_model(self.recipe, self.data, allow_factory=self.options.allow_factory):
                self.progress.say(remark)
        self.previous = self.folder.results()  # None where there are none, or they are damaged
        self._say_what_is_replaced()
        self.folder.write_recipe(self.recipe, self.store.uri, self.options.again)
        self.folder.log_begin(self.recipe.name)
        self.failures = self.folder.failures()
        if not complete or not self.tracker.is_complete():
            self.tracker.start()
        try:
            for _ in range(HEAL_LIMIT):
                try:
                    self._make_units(stored)
                    return self._finish()
                except CorruptObject as error:  # this process itself has read it
                    self.progress.say(f"{error}; it is made again")
                    stored = self._stored()
            raise EnvironmentFault(
                f"store {self.store.uri}: what is written comes back damaged again and again; check its disk"
            )
        except KeyboardInterrupt:
            self.tracker.close("KILLED")
            raise
        except BaseException:
            self.tracker.close("FAILED")
            raise

    def _say_what_is_replaced(self) -> None:
        """Says what another recipe than the last one here does to its results."""
        previous = self.previous
        if previous is None:
            return
        before: Record = previous.get("recipe", {})
        now: Record = self.recipe.document
        shadows = before.get("shadows", {})
        # A key that only one of them has is an option of another version.
        if changed := [name for name, value in now["shadows"].items() if shadows.get(name, value) != value]:
            names = ", ".join(f"shadows.{name}" for name in changed)
            self.progress.say(f"{names}: not as in the last run here, so all its numbers are replaced")
        attacks = {canonical(attack) for attack in now["attacks"]}
        if lost := [str(attack["name"]) for attack in before.get("attacks", []) if canonical(attack) not in attacks]:
            self.progress.say(f"attacks: {', '.join(lost)}: not as in the last run here; what it found is replaced")
        rows = {canonical([row.method, row.params]) for row in self.plan.rows}
        gone = [row for row in previous.get("rows", []) if canonical([row["method"], row["params"]]) not in rows]
        if gone:
            names = ", ".join(f"{row['method']}{short(row['params'])}" for row in gone[:3])
            more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
            self.progress.say(f"no longer in the recipe, and no longer in the results: {names}{more}")

    def _forget_stored(self, methods: frozenset[str]) -> None:
        """Removes what these methods made from the store, and all that was measured of it."""
        if not methods:
            return
        made = {unit.key for unit in self.plan.stages["unlearn"] if unit.label.method in methods}
        known = {unit.label.method for unit in self.plan.stages["unlearn"]}
        if unknown := sorted(methods - known):
            fault = Fault("--fresh", unknown[0], "not a method of the recipe", ", ".join(sorted(known)))
            raise RecipeError([fault], self.recipe.name)
        for unit in self.plan.units():
            if (unit.key in made or made & unit.ancestors().keys()) and self.store.has(unit.key):
                self.store.remove(unit.key)

    def _stored(self) -> set[str]:
        return self.store.committed({unit.key for unit in self.plan.units()})

    def _make_units(self, stored: set[str]) -> None:
        """Makes what is not `stored`, and writes the logits of all models."""
        missing = self._missing(stored)
        reused = {stage: len(units) - len(missing[stage]) for stage, units in self.plan.stages.items()}
        only_scores = not any(missing[stage] for stage in STAGES if stage != "score")
        try:
            self.stages.run(missing, reused, lambda: self._engine(only_scores), self._ended)
        finally:
            if self.engine is not None:
                self.engine.close()
                self.engine = None
        self._write_outputs()
        write_forget_set(self.data, self.folder.path / "outputs" / "forget.csv")

    def _missing(self, stored: set[str]) -> dict[str, list[Unit]]:
        """Returns the units to execute, by stage; those that are stored are counted."""
        wanted, self.work["units_reused"] = self.options.only, 0
        missing: dict[str, list[Unit]] = {stage: [] for stage in STAGES}
        for stage in STAGES:
            for unit in self.plan.stages[stage]:
                if unit.key in stored:
                    self.work["units_reused"] += unit.key not in self.made
                    if self.failures.pop(unit.key, None) is not None:  # made since by somebody else
                        self.folder.log_outcome(stage, Outcome(unit.key, unit.name, unit.kind, "reused"))
                    self.tracker.unit_done(unit)
                elif wanted is None or wanted & {unit.key, unit.name, *unit.ancestors()}:
                    missing[stage].append(unit)
        if wanted is not None:
            chosen = {unit.key for units in missing.values() for unit in units}
            for stage, units in missing.items():
                missing[stage] = [unit for unit in units if not self._is_broken(unit, chosen)]
        return missing

    def _is_broken(self, unit: Unit, chosen: set[str]) -> bool:
        """Whether a model that `unit` needs has failed before, and is not tried again now."""
        return any(
            need.key in self.failures and need.kind in MODEL_KINDS and need.key not in chosen
            for need in unit.ancestors().values()
        )

    def _ended(self, unit: Unit, outcome: Outcome) -> None:
        if outcome.failed:
            self.failures[unit.key] = outcome.error
            return
        self.failures.pop(unit.key, None)
        if outcome.status == "done":
            self.work["units_executed"] += 1
        else:
            self.work["units_reused"] += 1
        self.tracker.unit_done(unit)

    def _engine(self, only_scores: bool) -> Engine:
        """Returns where units run. Scores alone are seconds of arithmetic, not worth a start of
        Ray.
        """
        given = (self.recipe, self.options, self.data, self.store)
        if only_scores:
            self.engine = inline_engine(*given)
            return self.engine
        preflight(self.recipe, self.store)
        self.engine = self.stages.start(*given, self._write_outputs, self._attacker_rows())
        self.where = "one process" if self.options.address == INLINE else self.engine.describe()
        return self.engine

    def _write_outputs(self) -> list[Path]:
        return write_outputs(self.plan, self.store, self.folder.path / "outputs")

    def _attacker_rows(self) -> int:
        """Returns the rows that the shadow attack will be fitted on: what a cluster needs for it is
        known from the start."""
        if not any(attack.name == "xgboost" for attack in self.recipe.attacks):
            return 0
        models = 2 * sum(self.recipe.shadows.split[:2])
        return len(self.data.split.forget) * models

    def _finish(self) -> RunResult:
        with self.stages.timed("report"):
            rows, curves = collect(self.plan, self.data, self.store, self.failures)
            previous = self.previous
            facts = environment(self.data, self.store, self.work, self.where, rows, previous)
            document = write_results(self.folder.path, self.recipe, rows, curves, self.folder.stage_seconds(), facts)
            unchanged = previous is not None and all(
                previous.get(name) == document[name] for name in ("rows", "recipe")
            )
            if not unchanged or not self.folder.report_is_whole():
                self.progress.say("drawing figures and the report")
                _draw(self.folder)
            self.folder.seal([self.folder.path / "results.json"])
        if self.work["units_executed"]:
            self._stored()  # the next start then finds all marks known
        failed = sum(not row.done for row in rows)
        self.tracker.log_trials(self.tuned)
        self.tracker.finish(document, failed)
        for note in self.tracker.notes:
            self.progress.say(note)
        # What a small head node must hold.
        self.folder.append_event({"event": "finished", "failed": failed, "driver_peak_mib": peak_mib()})
        return RunResult(document, self.folder.path, failed)


def rebuild(folder: OutputFolder, *, allow_factory: bool = False) -> Results:
    """Writes results, tables, figures and the page again from the store; computes nothing.

    **Arguments:** `allow_factory`: as of `RunOptions`.

    **Raises:** `EnvironmentFault` where the folder holds no experiment, or an object of its store
    is damaged.
    """
    recipe = folder.recipe()
    store = open_store(folder.store_uri())
    data = load_data(recipe, store, allow_factory=allow_factory)
    plan = make_plan(recipe, data)
    stored = store.committed(unit.key for unit in plan.units())
    try:
        rows, curves = collect(plan, data, store, folder.failures())
        write_outputs(plan, store, folder.path / "outputs")
        write_forget_set(data, folder.path / "outputs" / "forget.csv")
    except CorruptObject as error:
        raise EnvironmentFault(f"{folder.path}: {error}; `orchestrator retry {folder.path}` makes it again") from None
    work: Work = {"units_executed": 0, "units_reused": len(stored)}
    document = write_results(
        folder.path,
        recipe,
        rows,
        curves,
        folder.stage_seconds(),
        environment(data, store, work, "stored results", rows, folder.results()),
    )
    _draw(folder)
    folder.seal([folder.path / "results.json"])
    return document


def _draw(folder: OutputFolder) -> None:
    from ..report.write import write_report  # imports matplotlib

    folder.seal_report(write_report(folder.path))
