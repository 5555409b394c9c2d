"""How many units fit on which cluster, and what is refused because it could never run. No Ray is needed for that."""

from __future__ import annotations

import pytest

from orchestrator.base.errors import EnvironmentFault
from orchestrator.engine.ray.placement import Placement, place
from orchestrator.recipe.sections import Resources


def gpu_node(cpus: float, gpus: float, kind: str = "H100") -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus, f"accelerator_type:{kind}": 1.0, "memory": 1e9}


def test_units_are_counted_node_by_node() -> None:
    nodes = [{"CPU": 3.0}, {"CPU": 3.0}]
    assert place(nodes, Resources(cpus_per_unit=2)).slots("train") == 2, "a unit cannot lie across two nodes"
    assert place(nodes, Resources(cpus_per_unit=1)).slots("train") == 6
    assert place(nodes, Resources(cpus_per_unit=0.5)).slots("train") == 12
    assert place(nodes, Resources(cpus_per_unit=1, concurrency=4)).slots("train") == 4


def test_fractions_of_a_gpu_share_whole_gpus() -> None:
    node = [gpu_node(16, 2)]
    assert place(node, Resources(gpus_per_unit=0.5)).slots("train") == 4
    assert place(node, Resources(gpus_per_unit=0.6)).slots("train") == 2, "two of 0.6 do not share a GPU"
    assert place(node, Resources(gpus_per_unit=1 / 3)).slots("train") == 6
    assert place(node, Resources(gpus_per_unit=2)).slots("train") == 1
    assert place(node, Resources(gpus_per_unit=0.25, cpus_per_unit=4)).slots("train") == 4, "CPUs bind first"


def test_attackers_use_nodes_without_gpus() -> None:
    placed = place([gpu_node(4, 1), {"CPU": 32.0}], Resources(cpus_per_unit=2, gpus_per_unit=1))
    assert placed.slots("train") == 1
    assert placed.slots("outputs") == 1
    assert placed.slots("attack") == 18


def test_kinds_of_gpu() -> None:
    nodes = [gpu_node(8, 4, "A100"), gpu_node(8, 2, "H100"), {"CPU": 8.0}]
    assert place(nodes, Resources(gpus_per_unit=1)).slots("train") == 6
    assert place(nodes, Resources(gpus_per_unit=1, accelerator_type="H100")).slots("train") == 2
    with pytest.raises(EnvironmentFault, match=r"resources\.accelerator_type: 'B300': the cluster has A100, H100"):
        place(nodes, Resources(gpus_per_unit=1, accelerator_type="B300"))


@pytest.mark.parametrize(
    ("nodes", "needed", "line"),
    [
        ([{"CPU": 4.0}], {"gpus_per_unit": 1}, "resources.gpus_per_unit: 1: the cluster has 0 GPUs"),
        ([{"CPU": 4.0}], {"cpus_per_unit": 8}, "resources.cpus_per_unit: 8: the cluster has 4 CPUs; use at most"),
        ([{"CPU": 4.0}, {"CPU": 4.0}], {"cpus_per_unit": 6}, "no single node has both"),
        ([gpu_node(1, 1), {"CPU": 16.0}], {"cpus_per_unit": 2, "gpus_per_unit": 1}, "no single node has both"),
    ],
)
def test_what_could_never_run_is_refused(nodes: list[dict[str, float]], needed: dict[str, float], line: str) -> None:
    with pytest.raises(EnvironmentFault) as fault:
        place(nodes, Resources(**needed))
    assert line in str(fault.value)
    assert "\n" not in str(fault.value)
    assert isinstance(place(nodes, Resources(**needed), may_grow=True), Placement), "an autoscaler may bring it"


def test_ray_data_keeps_a_cpu_beside_the_attackers_workers() -> None:
    assert place([{"CPU": 2.0}], Resources()).workers_beside_data(0.5) == 2
    assert place([{"CPU": 8.0}], Resources()).workers_beside_data(1.0) == 7
    with pytest.raises(EnvironmentFault, match=r"raise resources\.distributed_rows") as fault:
        place([{"CPU": 1.0}], Resources()).workers_beside_data(0.5)
    assert "1 CPU for Ray Data" in str(fault.value)


def test_workers_wait_for_nodes_that_may_join() -> None:
    nodes = [{"CPU": 4.0}]
    assert place(nodes, Resources()).workers("train", 1000) == 10
    assert place(nodes, Resources()).workers("train", 3) == 3
    assert place(nodes, Resources(concurrency=2)).workers("train", 1000) == 2
    assert place(nodes, Resources(), may_grow=True).workers("train", 1000) == 200


def test_attackers_are_counted_by_gpus_where_xgboost_can_use_them() -> None:
    one = place([gpu_node(16, 1)], Resources(gpus_per_unit=0.5))
    assert one.attackers(0.5, on_gpus=True) == 1, "a second worker would leave both on the CPU"
    assert one.attackers(0.5, on_gpus=False) == 2
    four = place([gpu_node(16, 2), gpu_node(16, 2), {"CPU": 64.0}], Resources())
    assert four.attackers(0.5, on_gpus=True) == 4
    assert place([gpu_node(16, 8)], Resources(concurrency=3)).attackers(0.5, on_gpus=True) == 3
    assert place([gpu_node(2, 8)], Resources()).attackers(0.5, on_gpus=True) == 2, "Ray Data keeps a CPU"
    assert place([{"CPU": 8.0}], Resources()).attackers(0.5, on_gpus=True) == 4, "no GPUs: as without"
    with pytest.raises(EnvironmentFault, match=r"raise resources\.distributed_rows"):
        place([gpu_node(1, 1)], Resources()).attackers(1.0, on_gpus=True)
