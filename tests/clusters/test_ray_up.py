"""The `ray up` files are accepted by Ray and the clouds' own models, and a planted fault in any of them is noticed."""

from __future__ import annotations

import pytest

from .mutation import noticed
from .places import CLUSTERS, load_all
from .ray_up import check_ray_up

FILES = ("on-prem", "aws", "gcp")


def text_of(name: str) -> str:
    return (CLUSTERS / "ray" / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FILES)
def test_file_is_accepted(name: str) -> None:
    assert check_ray_up(text_of(name)) == []


def test_no_file_is_left_out() -> None:
    assert {path.stem for path in (CLUSTERS / "ray").iterdir()} == set(FILES)


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_clouds_have_gpu_workers_and_cpu_workers_on_spot_that_go_when_idle(name: str) -> None:
    (config,) = load_all(text_of(name))
    workers = {key: value for key, value in config["available_node_types"].items() if key != config["head_node_type"]}
    assert sorted(value["resources"].get("GPU", 0) for value in workers.values()) == [0, 1]
    for worker in workers.values():
        node = worker["node_config"]
        assert worker["min_workers"] == 0
        if name == "aws":
            assert node["InstanceMarketOptions"]["MarketType"] == "spot"
        else:
            assert node["scheduling"]["provisioningModel"] == "SPOT"
    # The image with CUDA goes to the nodes that can use it.
    assert workers["gpu_worker"]["docker"]["worker_image"].endswith("-gpu")
    assert config["docker"]["worker_image"].endswith("-cpu")


COMMON = [
    ("cluster_name:", "cluster_nmae:"),
    ("idle_timeout_minutes:", "idle_timeout_minuets:"),
    ("max_workers: ", "max_workers: many # "),
    ("file_mounts:", "file_mount:"),
    ("ssh_user:", "ssh_usr:"),
    ("  type: ", "  tpye: "),
    ("--head ", "--haed "),
    ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
    ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled"),
    ("ray start --address", "ray strat --address"),
    ("upscaling_speed: ", "max_workers: 3\nupscaling_speed: "),
    ("#   ray up --yes", "#   ray up --yess"),
]
OWN = {
    "on-prem": [
        ("head_ip: 10.0.0.10", "head_ip: 203.0.113.9"),
        ("head_ip: 10.0.0.10", "head_ip: 8.8.8.8"),
        ("worker_ips:", "worker_ip:"),
        ("  type: local", "  type: local\n  region: here"),
        ('"~/.orchestrator-token": ~', '"~/.other-token": ~'),
    ],
    "aws": [
        ("InstanceMarketOptions:", "InstanceMarketOption:"),
        ("MarketType: spot", "MarketType: sopt"),
        ("InstanceType: g6.2xlarge", "InstanceType: g6.3xlarge"),
        ("InstanceType: g6.2xlarge", "InstanceType: c7i.4xlarge"),
        ("VolumeSize: 100", "VolumeSize: big"),
        ("HttpTokens: required", "HttpTokens: require"),
        ("SecurityGroupIds: [sg-0123456789abcdef0]", "SecurityGroupIds: sg-0123456789abcdef0"),
        ("SubnetIds: [subnet-0123456789abcdef0]", "SubnetIds: subnet-0123456789abcdef0"),
        ("use_internal_ips: true", "use_internal_ips: false"),
        ("  region:", "  regoin:"),
        ("{CPU: 8, GPU: 1}", "{CPU: 8, GPU: one}"),
        ("{CPU: 8, GPU: 1}", "{CPU: 8, GPUs: 1}"),
        ("head_node_type: head", "head_node_type: haed"),
        ("    worker_image: 0", "    worker_imgae: 0"),
        ("container_name: orchestrator", "container_nmae: orchestrator"),
        ("  gpu_worker:\n", "  gpu_worker:\n    max_worker: 3\n"),
    ],
    "gcp": [
        ("machineType: g2-standard-8", "machine_type: g2-standard-8"),
        ("provisioningModel: SPOT", "provisioningModel: SOPT"),
        ("automaticRestart: false", "automaticRestart: never"),
        ("acceleratorCount: 1", "acceleratorCount: 2"),
        ("acceleratorCount: 1", "acceleratorCount: one"),
        ("initializeParams: {diskSizeGb", "initializeParams: {diskSizeGB"),
        ("type: PERSISTENT", "type: PERSISTANT"),
        ("onHostMaintenance: TERMINATE", "onHostMaintenance: MIGRATE"),
        ("- subnetwork:", "- subnetwrok:"),
        ("use_internal_ips: true", "use_internal_ips: false"),
        ("project_id: PROJECT", "project: PROJECT"),
        ("enableVtpm: true", "enableVTPM: true"),
    ],
}


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "old", "new"), [(name, *mutation) for name in FILES for mutation in [*COMMON, *OWN[name]]]
)
def test_planted_fault_is_noticed(name: str, old: str, new: str) -> None:
    assert noticed(check_ray_up, text_of(name), old, new)
