"""How many units fit on a cluster at once, node by node, and what could never run there: refused
before anything starts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...base.errors import EnvironmentFault
from ...plan.units import Unit
from ...recipe.sections import Resources
from ..base import DEVICE_KINDS

GPU_STAGES = ("train", "unlearn", "outputs")
GROWTH = 200  # workers asked of an autoscaler that has brought fewer
DATA_CPUS = 1.0  # what a task of Ray Data's own asks for


@dataclass(frozen=True)
class Node:
    """What one node of the cluster has in all, whoever uses it now."""

    cpus: float
    gpus: float = 0.0
    accelerator: str = ""

    @classmethod
    def of(cls, resources: Mapping[str, float]) -> Node:
        """Returns the node that Ray describes as `resources`."""
        kind = next((name.split(":", 1)[1] for name in resources if name.startswith("accelerator_type:")), "")
        return cls(float(resources.get("CPU", 0.0)), float(resources.get("GPU", 0.0)), kind)


@dataclass(frozen=True)
class Placement:
    """Units of a stage that run at once, and the cluster that this was worked out for."""

    nodes: tuple[Node, ...]
    resources: Resources
    may_grow: bool = False

    def slots(self, stage: str) -> int:
        """Returns how many units of `stage` fit at once: whole units on each node, at most
        `resources.concurrency`.

        Attackers need no GPU and so fit on nodes without one too.
        """
        fitting = sum(_on(node, self.resources, stage in GPU_STAGES) for node in self.nodes)
        return max(1, min(fitting, self.resources.concurrency or fitting))

    def workers(self, stage: str, units: int) -> int:
        """Returns how many workers to ask for: more than fit, so that nodes which join find some
        waiting to start.

        To an autoscaler what waits is the demand; on a cluster that stays as it is, twice its size
        is plenty.
        """
        fitting = self.slots(stage)
        wanted = max(GROWTH if self.may_grow else 0, 2 * fitting + 2)
        return max(1, min(units, self.resources.concurrency or wanted))

    def pools(self, units: Sequence[Unit]) -> tuple[int, int]:
        """Returns how many workers to ask for that make any of `units`, and how many without a GPU.

        The second are only there where units use GPUs. They take CPUs that are left over, and make
        what needs no GPU. More of them than fit now would take the CPUs of a GPU that joins.
        """
        if not self.resources.gpus_per_unit:
            return self.workers("train", len(units)), 0
        fast = sum(unit.kind in DEVICE_KINDS for unit in units)
        plain = len(units) - fast
        if not fast:
            return 0, self.workers("attack", plain)
        beside = sum(_on(node, self.resources, False) - _on(node, self.resources, True) for node in self.nodes)
        return self.workers("train", len(units)), min(plain, beside)

    def needs(self, stage: str) -> dict[str, float]:
        """Returns what one unit of `stage` asks of Ray Tune."""
        found: dict[str, float] = {"cpu": self.resources.cpus_per_unit}
        if stage in GPU_STAGES and self.resources.gpus_per_unit:
            found["gpu"] = self.resources.gpus_per_unit
            if self.resources.accelerator_type:
                found[f"accelerator_type:{self.resources.accelerator_type}"] = 0.001
        return found

    def check(self) -> None:
        """Raises `EnvironmentFault` with the setting and the fix where a stage could never run."""
        needed = self.resources
        cpus, gpus = sum(node.cpus for node in self.nodes), sum(node.gpus for node in self.nodes)
        if self.may_grow:
            return  # an autoscaler may bring what is missing, and says itself what it cannot
        if needed.accelerator_type:
            kinds = sorted({node.accelerator for node in self.nodes if node.accelerator})
            if needed.accelerator_type not in kinds:
                raise EnvironmentFault(
                    f"resources.accelerator_type: {needed.accelerator_type!r}: the cluster has "
                    f"{', '.join(kinds) or 'no accelerators'}; leave it out or name one of these"
                )
        if needed.gpus_per_unit > gpus:
            raise EnvironmentFault(
                f"resources.gpus_per_unit: {needed.gpus_per_unit:g}: the cluster has {gpus:g} GPUs; "
                "use --set resources.gpus_per_unit=0 for CPU"
            )
        if needed.cpus_per_unit > cpus:
            raise EnvironmentFault(
                f"resources.cpus_per_unit: {needed.cpus_per_unit:g}: the cluster has {cpus:g} CPUs; "
                f"use at most --set resources.cpus_per_unit={max(node.cpus for node in self.nodes):g}"
            )
        if not any(_on(node, needed, True) for node in self.nodes):
            largest = max(self.nodes, key=lambda node: (min(node.gpus, 1.0), node.cpus))
            raise EnvironmentFault(
                f"resources: one unit takes {needed.cpus_per_unit:g} CPUs and {needed.gpus_per_unit:g} GPUs, and no single "
                f"node has both (the largest: {largest.cpus:g} CPUs, {largest.gpus:g} GPUs); lower resources.cpus_per_unit "
                "or resources.gpus_per_unit"
            )

    def attackers(self, cpus_per_worker: float, on_gpus: bool) -> int:
        """Returns how many workers fit the distributed attacker: one for each GPU where there are
        any, else at least two.

        **Arguments:** `on_gpus`: whether XGBoost is built for GPUs.

        **Raises:** `EnvironmentFault` where there is no GPU and not even two fit beside Ray Data.
        """
        cards = sum(min(math.floor(node.gpus), math.floor(node.cpus / cpus_per_worker)) for node in self.nodes)
        if on_gpus and cards and (fitting := self._beside_data(cpus_per_worker)):
            return min(cards, fitting, self.resources.concurrency or cards)
        return min(max(2, self.slots("train") // 2), self.workers_beside_data(cpus_per_worker))

    def workers_beside_data(self, cpus_per_worker: float) -> int:
        """Returns how many attacker workers fit while Ray Data keeps a CPU for itself; they would
        starve each other otherwise.

        **Raises:** `EnvironmentFault` where not even two do.
        """
        fitting = self._beside_data(cpus_per_worker)
        if fitting < 2 and not self.may_grow:
            cpus = sum(node.cpus for node in self.nodes)
            raise EnvironmentFault(
                f"resources.cpus_per_unit: {self.resources.cpus_per_unit:g}: the distributed attacker takes two workers of "
                f"{cpus_per_worker:g} CPUs and {DATA_CPUS:g} CPU for Ray Data, and the cluster has {cpus:g}; lower "
                "resources.cpus_per_unit, add a node, or raise resources.distributed_rows to attack in one process"
            )
        return max(2, fitting)

    def _beside_data(self, cpus_per_worker: float) -> int:
        """Returns how many attacker workers fit while Ray Data keeps a CPU, node by node; 0 where
        none does.
        """
        fitting = sum(math.floor(node.cpus / cpus_per_worker) for node in self.nodes)
        cpus = sum(node.cpus for node in self.nodes)
        while fitting and cpus - fitting * cpus_per_worker < DATA_CPUS:
            fitting -= 1
        return fitting


def place(nodes: Sequence[Mapping[str, float]], resources: Resources, may_grow: bool = False) -> Placement:
    """Returns the placement on nodes described as Ray does, checked.

    **Arguments:** `may_grow`: an autoscaler may add nodes.
    """
    found = Placement(tuple(Node.of(node) for node in nodes), resources, may_grow)
    found.check()
    return found


def _on(node: Node, needed: Resources, with_gpu: bool) -> int:
    """Returns how many units fit on a node. Fractions of a GPU are placed on whole GPUs: two of 0.6
    do not share one.
    """
    fitting = math.floor(node.cpus / needed.cpus_per_unit + 1e-9)
    if needed.accelerator_type and with_gpu and node.accelerator != needed.accelerator_type:
        return 0
    if with_gpu and needed.gpus_per_unit:
        if needed.gpus_per_unit < 1:
            fitting = min(fitting, math.floor(node.gpus) * math.floor(1 / needed.gpus_per_unit + 1e-9))
        else:
            fitting = min(fitting, math.floor(node.gpus / needed.gpus_per_unit))
    return fitting
