"""One experiment from recipe to report. Running it again does only what is missing."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.documents import Results, Work
from ..base.errors import EnvironmentFault
from ..base.scratch import sweep_all
from ..engine import Engine, InlineEngine
from ..plan.data import ExperimentData, load_data
from ..plan.plan import Plan, check_stored_models, make_plan
from ..plan.units import STAGES, Outcome, Unit, default_threads
from ..recipe.sections import Recipe
from ..records.folder import OutputFolder
from ..records.mlflow_writer import Tracker
from ..records.ownership import Owner
from ..records.progress import Progress
from ..store import CorruptObject, Store, open_store
from ..work.context import Context
from ..work.execute import HEAL_LIMIT
from .outputs import write_forget_set, write_outputs
from .preflight import preflight, try_model
from .results import collect, environment, write_results
from .stages import INLINE, RunOptions, Stages


@dataclass
class RunResult:
    """What a run came to."""

    document: Results
    folder: Path
    failed: int


def run(recipe: Recipe, options: RunOptions) -> RunResult:
    """Runs `recipe` to the end and writes its output folder.

    **Raises:** `RecipeError` before anything is started where recipe and data do not fit;
    `EnvironmentFault` where storage, cluster or disk fail. Units that fail for their own reason do
    not raise: they are rows that say why.
    """
    folder = OutputFolder(options.output)
    folder.take(Owner.of_recipe(recipe), options.force)
    sweep_all()
    progress = Progress(quiet=options.quiet, log=folder.log)
    try:
        return _Run(recipe, options, folder, progress).execute()
    finally:
        progress.close()
        folder.unlock()


class _Run:
    def __init__(self, recipe: Recipe, options: RunOptions, folder: OutputFolder, progress: Progress):
        self.recipe = recipe
        self.options = options
        self.folder = folder
        self.progress = progress
        self.stages = Stages(folder, progress)
        self.work: Work = {"units_executed": 0, "units_reused": 0}
        self.failures: dict[str, str] = {}
        self.where = "stored results"

    def execute(self) -> RunResult:
        store = open_store(self.options.store or str(self.folder.path / "store"))
        data = load_data(
            self.recipe, store, self.progress.counting("decoding images"), allow_factory=self.options.allow_factory
        )
        for note in data.split.notes:
            self.progress.say(note)
        plan = make_plan(self.recipe, data)
        if self.recipe.shadows.reuse_only:
            check_stored_models(plan, sum(store.has(unit.key) for unit in plan.stages["train"]))
        if not self._all_stored(plan, store):
            for remark in try_model(self.recipe, data, allow_factory=self.options.allow_factory):
                self.progress.say(remark)
        self.folder.write_recipe(self.recipe, store.uri)
        self.folder.log_begin(self.recipe.name)
        self.failures = self.folder.failures()
        tracker = Tracker(self.recipe, plan, data, store, self.folder.path)
        if not self._all_stored(plan, store) or not tracker.is_complete():
            tracker.start()
        try:
            return self._heal(plan, data, store, tracker)
        except KeyboardInterrupt:
            tracker.close("KILLED")
            self.folder.append_event({"event": "interrupted"})
            raise
        except BaseException:
            tracker.close("FAILED")
            raise

    @staticmethod
    def _all_stored(plan: Plan, store: Store) -> bool:
        wanted = {unit.key for unit in plan.units()}
        return store.committed(wanted) == wanted

    def _heal(self, plan: Plan, data: ExperimentData, store: Store, tracker: Tracker) -> RunResult:
        """Runs all stages and reports; where this process itself reads a damaged object, makes that
        again and goes on.
        """
        for _ in range(HEAL_LIMIT):
            try:
                self.work["units_reused"] = 0
                engine = self._run_stages(plan, data, store, tracker)
                if engine is not None:
                    engine.close()
                return self._finish(plan, data, store, tracker)
            except CorruptObject as error:
                self.progress.say(f"{error}; it is made again")
        raise EnvironmentFault(f"store {store.uri}: what is written comes back damaged again and again; check its disk")

    def _run_stages(self, plan: Plan, data: ExperimentData, store: Store, tracker: Tracker) -> Engine | None:
        engine: Engine | None = None
        try:
            for stage in STAGES:
                missing = self._missing(stage, plan.stages[stage], store, tracker)
                if stage == "score":
                    # Scores are the driver's own work: seconds of vectorised arithmetic on stored
                    # outputs.
                    runner: Engine = InlineEngine(
                        Context(store, data, threads=default_threads(self.recipe.resources.cpus_per_unit))
                    )
                else:
                    if missing and engine is None:
                        preflight(self.recipe, store)
                        engine = self._engine(data, store)
                    runner = engine if engine is not None else InlineEngine(Context(store, data))
                self._run_stage(stage, missing, runner, store, tracker, reused=len(plan.stages[stage]) - len(missing))
                if stage == "outputs":
                    write_outputs(plan, store, self.folder.path / "outputs")
                    write_forget_set(data, self.folder.path / "outputs" / "forget.csv")
        except BaseException:
            if engine is not None:
                engine.close()
            raise
        return engine

    def _engine(self, data: ExperimentData, store: Store) -> Engine:
        threads = default_threads(self.recipe.resources.cpus_per_unit)
        if self.options.address == INLINE:
            self.where = "one process"
            context = Context(store, data, threads=threads, allow_factory=self.options.allow_factory)
            inline = InlineEngine(context)
            self.stages.record(inline)
            return inline
        engine = self.stages.start_ray(self.recipe, self.options, data, store, self._attacker_rows(data))
        self.where = engine.describe()
        return engine

    def _attacker_rows(self, data: ExperimentData) -> int:
        """Returns the rows that the shadow attack will be fitted on: what a cluster needs for it is
        known from the start."""
        if not any(attack.name == "xgboost" for attack in self.recipe.attacks):
            return 0
        models = 2 * sum(self.recipe.shadows.split[:2])
        return len(data.split.forget) * models

    def _missing(self, stage: str, units: Sequence[Unit], store: Store, tracker: Tracker) -> list[Unit]:
        missing = []
        stored = store.committed(unit.key for unit in units)
        for unit in units:
            if unit.key in stored:
                self.work["units_reused"] += 1
                if self.failures.pop(unit.key, None) is not None:  # made since by somebody else
                    self.folder.log_outcome(stage, Outcome(unit.key, unit.name, unit.kind, "reused"))
                tracker.unit_done(unit)
            elif self.options.only is None or self.options.only & {unit.key, unit.name, *unit.ancestors()}:
                missing.append(unit)
        return missing

    def _run_stage(
        self, stage: str, missing: list[Unit], engine: Engine, store: Store, tracker: Tracker, reused: int
    ) -> None:
        runnable = {unit.key: unit for unit in missing if stage == "train" or not self._is_broken(unit, store)}
        for key in runnable:
            self.failures.pop(key, None)

        def listen(outcome: Outcome) -> None:
            if outcome.failed:
                self.failures[outcome.key] = outcome.error
            else:
                if outcome.status == "done":
                    self.work["units_executed"] += 1
                else:
                    self.work["units_reused"] += 1
                tracker.unit_done(runnable[outcome.key])

        self.stages.run(stage, list(runnable.values()), reused, engine, listen)

    def _is_broken(self, unit: Unit, store: Store) -> bool:
        """Whether a model that `unit` needs has failed."""
        return any(
            need.key in self.failures and need.kind in ("train", "unlearn") and not store.has(need.key)
            for need in unit.ancestors().values()
        )

    def _finish(self, plan: Plan, data: ExperimentData, store: Store, tracker: Tracker) -> RunResult:
        with self.stages.timed("report"):
            rows, curves = collect(plan, data, store, self.failures)
            previous = self.folder.results()  # None where it is damaged
            facts = environment(data, store, self.work, self.where, rows, previous)
            document = write_results(self.folder.path, self.recipe, rows, curves, self.folder.stage_seconds(), facts)
            unchanged = previous is not None and all(
                previous.get(name) == document[name] for name in ("rows", "recipe")
            )
            if not unchanged or not self.folder.report_is_whole():
                from ..report.write import write_report

                self.progress.say("drawing figures and the report")
                self.folder.seal_report(write_report(self.folder.path))
            self.folder.seal([self.folder.path / "results.json"])
        failed = sum(not row.done for row in rows)
        tracker.finish(document, failed)
        for note in tracker.notes:
            self.progress.say(note)
        # In KiB on Linux. What a small head node must hold.
        peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        self.folder.append_event({"event": "finished", "failed": failed, "driver_peak_mib": peak})
        return RunResult(document, self.folder.path, failed)


def rebuild(folder: OutputFolder) -> Results:
    """Writes results, tables, figures and the page again from the store; computes nothing.

    **Raises:** `EnvironmentFault` where the folder holds no experiment, or an object of its store
    is damaged.
    """
    recipe = folder.recipe()
    store = open_store(folder.store_uri())
    data = load_data(recipe, store)
    plan = make_plan(recipe, data)
    try:
        rows, curves = collect(plan, data, store, folder.failures())
        write_outputs(plan, store, folder.path / "outputs")
    except CorruptObject as error:
        raise EnvironmentFault(f"{folder.path}: {error}; `orchestrator retry {folder.path}` makes it again") from None
    work: Work = {"units_executed": 0, "units_reused": sum(store.has(unit.key) for unit in plan.units())}
    document = write_results(
        folder.path,
        recipe,
        rows,
        curves,
        folder.stage_seconds(),
        environment(data, store, work, "stored results", rows, folder.results()),
    )
    from ..report.write import write_report

    folder.seal_report(write_report(folder.path))
    folder.seal([folder.path / "results.json"])
    return document
