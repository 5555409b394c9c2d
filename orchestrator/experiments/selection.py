"""The first stage of an experiment whose forget set is chosen by trained models."""

from __future__ import annotations

import contextlib

from ..base.errors import EXIT_UNITS_FAILED, UserError
from ..base.text import first_of
from ..plan.selection import selection_units
from ..plan.units import Outcome, Unit
from ..recipe.sections import Recipe
from ..records.folder import OutputFolder
from ..records.progress import Progress
from .preflight import preflight, try_model
from .stages import RunOptions, Stages, open_data


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
    store, data = open_data(recipe, options, folder, progress, stand_in=True)
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

    def ended(unit: Unit, outcome: Outcome) -> None:
        if outcome.failed:
            failed.append(outcome)
        elif outcome.status == "done":
            made.add(unit.key)

    with contextlib.ExitStack() as stack:
        stages.run(
            {"train": missing},
            {"train": len(units) - len(missing)},
            lambda: stack.enter_context(contextlib.closing(stages.start(recipe, options, data, store))),
            ended,
        )
    if failed:
        why = first_of([f"{each.name}: {each.error}" for each in failed])
        raise SelectionFailed(
            f"{recipe.name}: scenario.select: the forget set cannot be chosen: {why}; mend it, and the same command goes on"
        )
    return frozenset(made)
