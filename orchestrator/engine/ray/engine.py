"""Units on Ray: Tune trials that pull units of every kind from one queue.

Two kinds are taken out where they are large. Logits of whole populations are made by Ray Data,
attackers on many rows by Ray Train. These run between trials and are never nested in them. Data
pipelines inside trials that hold every CPU would wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ...base.errors import EnvironmentFault
from ...plan.data import ExperimentData
from ...plan.units import Outcome, Unit, default_threads
from ...recipe.sections import Resources
from ...store import Store
from ..attacker.path import choose_path, knows_gpus
from ..base import Ledger, Listener
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
        write_outputs: Callable[[], Sequence[Path]] = tuple,
        allow_factory: bool = False,
        attacker_rows: int = 0,
    ):
        """Joins or starts Ray, and refuses what could never run there.

        **Arguments:** `write_outputs`: writes `outputs/*.parquet` of what is stored and returns
        them. `attacker_rows`: that an attacker will be fitted on.
        """
        self.session = RaySession(address)
        self.store = store
        self._write_outputs = write_outputs
        self._forget = len(data.split.forget)
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

    def run(self, units: Sequence[Unit], listener: Listener) -> None:
        ledger = Ledger(units, listener)
        with self.session.watchdog.guard():
            streamed, distributed = self._bulk(units)
            later = {unit.key for unit in (*streamed, *distributed, *ledger.behind([*streamed, *distributed]))}
            self._run_trials([unit for unit in units if unit.key not in later], ledger)
            if streamed := ledger.left(streamed):
                self._look_at_nodes()
                problem = run_outputs(streamed, self.setup, self.placement, self.resources, ledger)
                self._account([unit for unit in streamed if self.store.has(unit.key)], ledger, problem)
                # A unit that takes its worker down breaks the pipeline. The queue finds out which,
                # and makes the others.
                self._run_trials(streamed, ledger)
            if distributed := ledger.left(distributed):
                self._look_at_nodes()
                # It imports Ray Train's XGBoost, which takes a second.
                from ..attacker.units import DistributedAttackers

                attackers = DistributedAttackers(self.store, self.resources, self.placement, self._write_outputs)
                attackers.run(distributed, ledger)
                self._account(distributed, ledger, "")
            self._run_trials(units, ledger)

    def _bulk(self, units: Sequence[Unit]) -> tuple[list[Unit], list[Unit]]:
        """Returns the units whose logits Ray Data streams, and the attackers for Ray Train."""
        logits = [unit for unit in units if unit.kind in ("outputs", "unseen", "retained")]
        attackers = [unit for unit in units if unit.kind == "attack"]
        rows = self._forget * max((len(unit.spec.outputs) for unit in attackers), default=0)
        return (
            logits if sum(unit.cost for unit in logits) >= self.resources.streamed_images else [],
            attackers if choose_path(rows, self.resources.distributed_rows) == "distributed" else [],
        )

    def _look_at_nodes(self) -> None:
        """Nodes join and leave between trials; what could never run was refused at the start."""
        nodes = tuple(Node.of(node) for node in self.session.node_resources())
        self.placement = replace(self.placement, nodes=nodes or self.placement.nodes)

    def _run_trials(self, units: Sequence[Unit], ledger: Ledger) -> None:
        if left := ledger.left(units):
            self._look_at_nodes()
            self._account(left, ledger, self._runner.run(left, self.placement, ledger))

    def _account(self, units: Sequence[Unit], ledger: Ledger, problem: str) -> None:
        """Reports the units whose worker crashed before it could."""
        self.session.watchdog.check()
        for unit in units:
            if not ledger.left([unit]):
                continue
            if self.store.has(unit.key):
                meta = self.store.meta(unit.key)
                seconds, where = float(meta.get("seconds", 0.0)), str(meta.get("host", ""))
                ledger.settle(Outcome(unit.key, unit.name, unit.kind, "done", seconds, where=where))
            else:
                why = f": {problem}" if problem else ""
                ledger.settle(Outcome(unit.key, unit.name, unit.kind, "failed", error=f"its worker crashed{why}"))

    def close(self) -> None:
        """Leaves the cluster; stops Ray where it was started here."""
        self.session.close()
