"""The output folder while an experiment works in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..base.errors import EnvironmentFault, one_line
from ..base.scratch import sweep_all
from ..recipe.sections import Recipe
from ..records.folder import OutputFolder
from ..records.ownership import Owner
from ..records.progress import Progress
from ..store import CorruptObject
from .stages import RunOptions


@contextmanager
def taken(recipe: Recipe, options: RunOptions) -> Iterator[tuple[OutputFolder, Progress]]:
    """Holds the output folder for this experiment alone; an interrupt is written into its log.

    **Raises:** `UserError` where the folder is not ours; `EnvironmentFault` where it cannot be
    written, or an object of the store is damaged.
    """
    folder = OutputFolder(options.output)
    folder.take(Owner.of_recipe(recipe), options.force)
    sweep_all()
    progress = Progress(quiet=options.quiet, log=folder.log)
    try:
        yield folder, progress
    except KeyboardInterrupt:
        folder.append_event({"event": "interrupted"})
        raise
    except CorruptObject as error:
        raise EnvironmentFault(f"{recipe.name}: {one_line(error)}; the same command makes it again") from None
    finally:
        progress.close()
        folder.unlock()
