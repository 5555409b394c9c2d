"""What runs and searches share: options, the start of Ray, and the loop over a stage's units."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine import Engine, Listener
from ..plan.data import ExperimentData
from ..plan.units import Outcome, Unit
from ..recipe.sections import Recipe
from ..records.folder import OutputFolder
from ..records.progress import Progress
from ..store import Store

if TYPE_CHECKING:
    from ..engine.ray.engine import RayEngine

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
    """

    output: Path
    store: str | None = None
    address: str | None = None
    quiet: bool = False
    only: frozenset[str] | None = None
    allow_factory: bool = False
    force: bool = False


@dataclass(frozen=True)
class Stages:
    """Runs the units of one stage after another, and records what becomes of them."""

    folder: OutputFolder
    progress: Progress

    def run(
        self, stage: str, units: Sequence[Unit], reused: int, engine: Engine, listener: Listener | None = None
    ) -> list[Outcome]:
        """Runs `units` on `engine` and returns the outcomes of those that failed.

        **Arguments:** `reused`: how many more units of the stage are stored. `listener`: told each
        outcome.
        """
        self.progress.stage(stage, units, reused)
        self.folder.log_stage(stage, units, reused)
        failed: list[Outcome] = []
        if not units:
            return failed
        costs = {unit.key: unit.cost for unit in units}

        def listen(outcome: Outcome) -> None:
            self.folder.log_outcome(stage, outcome, costs[outcome.key])
            self.progress.unit(outcome)
            if outcome.failed:
                failed.append(outcome)
            if listener is not None:
                listener(outcome)

        engine.starting = lambda unit, where: self.folder.log_start(stage, unit, where)
        with self.timed(stage):
            engine.run(stage, units, listen)
        self.progress.end_stage()
        return failed

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Records how long the work inside took, where it ends well."""
        started = time.monotonic()
        yield
        seconds = round(time.monotonic() - started, 3)
        self.folder.append_event({"event": "stage_end", "stage": stage, "seconds": seconds})

    def start_ray(
        self, recipe: Recipe, options: RunOptions, data: ExperimentData, store: Store, attacker_rows: int = 0
    ) -> RayEngine:
        """Joins or starts Ray and records where units will run.

        **Arguments:** `attacker_rows`: that an attacker will be fitted on; 0: not known yet.
        """
        here = options.address in (None, "", "local")
        self.progress.say("starting Ray" if here else f"joining Ray at {options.address}")
        from ..engine.ray.engine import RayEngine  # slow to import: ten seconds on a cold machine

        engine = RayEngine(
            options.address,
            store,
            data,
            recipe.resources,
            outputs_folder=self.folder.path / "outputs",
            allow_factory=options.allow_factory,
            attacker_rows=attacker_rows,
        )
        self.record(engine)
        return engine

    def record(self, engine: Engine) -> None:
        """Says and records where `engine` runs units."""
        self.progress.say(engine.describe())
        self.folder.log_engine(engine.describe(), engine.slots)
