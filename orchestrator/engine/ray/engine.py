"""Units on Ray: Tune trials for training, unlearning and attackers; a Ray Data pipeline for logits.

The stages follow each other and are never nested. Data pipelines inside trials that hold every CPU
would wait for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...base.errors import EnvironmentFault
from ...plan.data import ExperimentData
from ...plan.units import Outcome, Unit, default_threads
from ...recipe.sections import Resources
from ...store import Store
from ..attacker.fit import knows_gpus
from ..attacker.units import DistributedAttackers
from ..base import Listener, Starter
from .outputs import run_outputs
from .placement import Node, place
from .session import RaySession
from .unit_trials import UnitRunner
from .worker import WorkerSetup, working_folder


class RayEngine:
    """Runs units on a Ray cluster."""

    def __init__(
        self,
        address: str | None,
        store: Store,
        data: ExperimentData,
        resources: Resources,
        *,
        outputs_folder: Path = Path("outputs"),
        allow_factory: bool = False,
        attacker_rows: int = 0,
    ):
        """Joins or starts Ray, and refuses what could never run there.

        **Arguments:** `outputs_folder`: where `outputs/*.parquet` are. `attacker_rows`: that an
        attacker will be fitted on.
        """
        self.starting: Starter | None = None
        self.session = RaySession(address)
        self.store = store
        self.outputs_folder = outputs_folder
        self.resources = resources
        try:
            self.placement = place(self.session.node_resources(), resources, self.session.may_grow())
            if attacker_rows >= resources.distributed_rows:
                self.placement.attackers(resources.cpus_per_unit / 2, knows_gpus())
        except EnvironmentFault:
            self.close()
            raise
        ray = self.session.ray
        try:
            self._arrays = ray.put(data.to_arrays())
        except Exception as error:
            self.close()
            raise EnvironmentFault(f"Ray's object store cannot hold the images: {error}".splitlines()[0]) from error
        self.setup = WorkerSetup(
            store.uri,
            bytes(ray.cloudpickle.dumps(self._arrays)),
            default_threads(resources.cpus_per_unit),
            resources.gpus_per_unit,
            allow_factory,
            working_folder(),
        )
        self._runner = UnitRunner(store, resources, self.setup)

    @property
    def slots(self) -> int:
        """How many models are trained at once on the nodes that are there."""
        return self.placement.slots("train")

    def describe(self) -> str:
        where = "local Ray" if self.session.started_here else "Ray cluster"
        gpus = f", {self.session.gpus():g} GPUs" if self.session.gpus() else ""
        nodes = self.session.nodes()
        return f"{where}: {nodes} node{'s' if nodes != 1 else ''}, {self.session.cpus():g} CPUs{gpus}, {self.slots} units at once"

    def run(self, stage: str, units: Sequence[Unit], listener: Listener) -> None:
        with self.session.watchdog.guard():
            # Nodes join and leave between stages; what could never run was refused at the start.
            nodes = tuple(Node.of(node) for node in self.session.node_resources())
            self.placement = replace(self.placement, nodes=nodes or self.placement.nodes)
            attackers = DistributedAttackers(self.store, self.resources, self.placement, self.outputs_folder)
            if stage == "outputs":
                self._run_outputs(units, listener)
            elif stage == "attack" and attackers.wanted(units):
                attackers.run(units, listener)
            else:
                self._run_trials(stage, units, listener)

    def _run_outputs(self, units: Sequence[Unit], listener: Listener) -> None:
        reported, problem = run_outputs(units, self.setup, self.placement, self.resources, listener)
        left = [unit for unit in units if unit.key not in reported and not self.store.has(unit.key)]
        self._account([unit for unit in units if unit not in left], reported, listener, problem)
        if left:
            # A unit that takes its worker down breaks the pipeline. The queue finds out which, and
            # makes the others.
            self._run_trials("outputs", left, listener)

    def _run_trials(self, stage: str, units: Sequence[Unit], listener: Listener) -> None:
        reported, problem = self._runner.run(stage, units, self.placement, listener, self.starting)
        self._account(units, reported, listener, problem)

    def _account(self, units: Sequence[Unit], reported: set[str], listener: Listener, problem: str) -> None:
        """Reports the units whose worker crashed before it could."""
        self.session.watchdog.check()
        for unit in units:
            if unit.key in reported:
                continue
            if self.store.has(unit.key):
                meta = self.store.meta(unit.key)
                seconds, where = float(meta.get("seconds", 0.0)), str(meta.get("host", ""))
                listener(Outcome(unit.key, unit.name, unit.kind, "done", seconds, where=where))
            else:
                why = f": {problem}" if problem else ""
                listener(Outcome(unit.key, unit.name, unit.kind, "failed", error=f"its worker crashed{why}"))

    def close(self) -> None:
        """Leaves the cluster; stops Ray where it was started here."""
        self.session.close()
