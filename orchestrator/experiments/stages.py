"""What runs and searches share: options, the start of Ray, and the record of units by stage."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engine.base import Engine, Listener
from ..engine.inline import InlineEngine
from ..plan.data import ExperimentData, load_data
from ..plan.units import Outcome, Unit, default_threads, weight_of
from ..recipe.sections import Recipe
from ..records.folder import OutputFolder
from ..records.progress import JOINING, Progress, StageCount
from ..store import Store, open_store
from ..work.context import Context

INLINE = "inline"


@dataclass
class RunOptions:
    """How a recipe is run.

    **Arguments:**

    - `output`: the output folder. `store`: the store of finished units; None: `store/` in the
      output folder.
    - `address`: of a Ray cluster; None or `local`: one that we start; `inline`: this process
      without Ray.
    - `quiet`: print no progress.
    - `only`: names or keys of the units to execute, for `retry`; None: all that are missing.
    - `allow_factory`: whether the recipe may name code of the user's own.
    - `force`: write into a folder that holds foreign files or another experiment.
    - `fresh`: methods of the recipe whose work is done again, whatever is stored.
    - `again`: the command that goes on with the folder, where the recipe does not say all.
    """

    output: Path
    store: str | None = None
    address: str | None = None
    quiet: bool = False
    only: frozenset[str] | None = None
    allow_factory: bool = False
    force: bool = False
    fresh: frozenset[str] = frozenset()
    again: str = ""


def open_data(
    recipe: Recipe, options: RunOptions, folder: OutputFolder, progress: Progress, stand_in: bool = False
) -> tuple[Store, ExperimentData]:
    """Returns the store that the options name, and the recipe's data.

    **Arguments and errors:** `stand_in` and errors as of `load_data`.
    """
    store = open_store(options.store or str(folder.path / "store"))
    counting = progress.counting("decoding images")
    return store, load_data(recipe, store, counting, allow_factory=options.allow_factory, stand_in=stand_in)


def inline_engine(recipe: Recipe, options: RunOptions, data: ExperimentData, store: Store) -> InlineEngine:
    """Returns this process as the place where units run."""
    threads = default_threads(recipe.resources.cpus_per_unit)
    return InlineEngine(Context(store, data, threads=threads, allow_factory=options.allow_factory))


class Stages(Listener):
    """Runs units, and records by stage what becomes of them. Stages overlap.

    A stage begins with its first unit and ends with its last. The time between two outcomes counts
    for the stage of the second.
    """

    def __init__(self, folder: OutputFolder, progress: Progress):
        self.folder = folder
        self.progress = progress

    def run(
        self,
        units: Mapping[str, Sequence[Unit]],
        reused: Mapping[str, int],
        engine: Callable[[], Engine],
        listener: Callable[[Unit, Outcome], None],
    ) -> None:
        """Runs the units of all stages.

        **Arguments:** `reused`: how many more units of each stage are stored. `engine`: returns
        where units run; asked only where there are any. `listener`: told each outcome.
        """
        self._listener = listener
        self._stage_of = {unit.key: stage for stage, some in units.items() for unit in some}
        self._todo = {stage: {unit.key: unit for unit in some} for stage, some in units.items()}
        self._counts = {stage: StageCount(len(some), reused[stage]) for stage, some in units.items()}
        everything = [unit for some in units.values() for unit in some]
        where = engine() if everything else None
        self.progress.follow(self._counts, sum(map(weight_of, everything)))
        for stage, count in self._counts.items():
            if not count.to_do:
                self._begin(stage)
        if where is not None:
            self._last = time.monotonic()
            where.run(everything, self)
        self.progress.close()

    def begun(self, unit: Unit, where: str) -> None:
        stage = self._stage_of[unit.key]
        self._begin(stage)
        self.folder.log_start(stage, unit, where)

    def ended(self, unit: Unit, outcome: Outcome) -> None:
        stage = self._stage_of[unit.key]
        self._begin(stage)
        count, now = self._counts[stage], time.monotonic()
        count.seconds += now - self._last
        self._last = now
        count.ended += 1
        count.failed += outcome.failed
        self.folder.log_outcome(stage, outcome, unit.cost)
        self.progress.unit(outcome, weight_of(unit))
        self._listener(unit, outcome)
        self._end(stage)

    def broken(self, unit: Unit) -> None:
        stage = self._stage_of[unit.key]
        del self._todo[stage][unit.key]
        self._counts[stage].to_do -= 1
        if self._counts[stage].begun:
            self.folder.append_event({"event": "broken", "stage": stage, "unit": unit.key, "cost": unit.cost})
            self._end(stage)

    def _begin(self, stage: str) -> None:
        count = self._counts[stage]
        if not count.begun:
            count.begun = True
            self.folder.log_stage(stage, list(self._todo[stage].values()), count.reused)
            self.progress.begin_stage(stage)

    def _end(self, stage: str) -> None:
        count = self._counts[stage]
        if count.over and count.ended:
            self._log_end(stage, count.seconds)
            self.progress.end_stage(stage)

    def _log_end(self, stage: str, seconds: float) -> None:
        self.folder.append_event({"event": "stage_end", "stage": stage, "seconds": round(seconds, 3)})

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Records how long the work inside took, where it ends well."""
        started = time.monotonic()
        yield
        self._log_end(stage, time.monotonic() - started)

    def start(
        self,
        recipe: Recipe,
        options: RunOptions,
        data: ExperimentData,
        store: Store,
        write_outputs: Callable[[], Sequence[Path]] = tuple,
        attacker_rows: int = 0,
    ) -> Engine:
        """Starts what the options ask for, this process or Ray, and records where units will run.

        **Arguments:** `write_outputs`: as for `RayEngine`. `attacker_rows`: that an attacker will
        be fitted on; 0: not known yet.
        """
        if options.address == INLINE:
            engine: Engine = inline_engine(recipe, options, data, store)
        else:
            here = options.address in (None, "", "local")
            self.progress.say("starting Ray" if here else f"{JOINING} {options.address}")
            from ..engine.ray.engine import RayEngine  # slow to import, ten seconds when cold

            engine = RayEngine(
                options.address,
                store,
                data,
                recipe.resources,
                write_outputs=write_outputs,
                allow_factory=options.allow_factory,
                attacker_rows=attacker_rows,
            )
        self.progress.say(engine.describe())
        self.folder.log_engine(engine.describe(), engine.slots)
        return engine
