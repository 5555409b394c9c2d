"""The first stage of an experiment whose forget set is chosen by trained models."""

from __future__ import annotations

from ..base.errors import EXIT_UNITS_FAILED, UserError
from ..engine import Engine, InlineEngine
from ..plan.data import load_data
from ..plan.selection import selection_units
from ..plan.units import Outcome, Unit, default_threads
from ..recipe.sections import Recipe
from ..records.folder import OutputFolder
from ..records.progress import Progress
from ..store import open_store
from ..work.context import Context
from .preflight import preflight, try_model
from .stages import INLINE, RunOptions, Stages


class SelectionFailed(UserError):
    """Models that choose the forget set could not be made, so nothing else can be."""

    exit_code = EXIT_UNITS_FAILED


def choose_forget_set(recipe: Recipe, options: RunOptions, folder: OutputFolder, progress: Progress) -> frozenset[str]:
    """Trains and measures what chooses the forget set, where that is not stored; returns the keys
    of the units that were made.

    **Raises:** `SelectionFailed` where one of these units fails.
    """
    if recipe.scenario.scored is None:
        return frozenset()
    store = open_store(options.store or str(folder.path / "store"))
    data = load_data(
        recipe, store, progress.counting("decoding images"), allow_factory=options.allow_factory, stand_in=True
    )
    if not data.stand_in:
        return frozenset()
    units = selection_units(recipe, data.dataset)
    for remark in try_model(recipe, data, allow_factory=options.allow_factory):
        progress.say(remark)
    preflight(recipe, store)
    folder.write_recipe(recipe, store.uri)
    folder.log_begin(recipe.name)
    progress.say(f"{len(units) - 1} models choose what is forgotten, by {recipe.scenario.scored['by']}")
    stored = store.committed({unit.key for unit in units})
    missing = [unit for unit in units if unit.key not in stored]
    stages, made, failed = Stages(folder, progress), set(), list[Outcome]()
    engines: list[Engine] = []

    def engine() -> Engine:
        if options.address == INLINE:
            threads = default_threads(recipe.resources.cpus_per_unit)
            context = Context(store, data, threads=threads, allow_factory=options.allow_factory)
            engines.append(InlineEngine(context))
            stages.record(engines[0])
        else:
            engines.append(stages.start_ray(recipe, options, data, store, list))
        return engines[0]

    def ended(unit: Unit, outcome: Outcome) -> None:
        if outcome.failed:
            failed.append(outcome)
        elif outcome.status == "done":
            made.add(unit.key)

    try:
        stages.run({"train": missing}, {"train": len(units) - len(missing)}, engine, ended)
    finally:
        for each in engines:
            each.close()
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise SelectionFailed(
            f"{recipe.name}: scenario.select: the forget set cannot be chosen: {failed[0].name}: "
            f"{failed[0].error}{more}; mend it, and the same command goes on"
        )
    return frozenset(made)
