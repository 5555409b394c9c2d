"""Clusters that add nodes by themselves say so to runs, which would refuse an empty cluster otherwise."""

from __future__ import annotations

import json
import shlex

import pytest

from orchestrator.engine.ray.session import AUTOSCALING

from .places import CLUSTERS, load_all


def heads(path: str, text: str) -> list[dict[str, float]]:
    """Returns the resources of its own that each head of a file is started with."""
    found = []
    for document in load_all(text):
        if "head_start_ray_commands" in document:
            command = next(c for c in document["head_start_ray_commands"] if "ray start" in c)
            given = [word for word in shlex.split(command) if word.startswith("--resources=")]
            found.append(json.loads(given[0].partition("=")[2]) if given else {})
        elif document.get("kind") in ("RayCluster", "RayJob"):
            spec = document["spec"].get("rayClusterSpec", document["spec"])
            assert spec["enableInTreeAutoscaling"] is True
            # KubeRay hands it to a shell as it is, hence JSON in quotes.
            given = spec["headGroupSpec"]["rayStartParams"].get("resources", "")
            found.append(json.loads(shlex.split(given)[0]) if given else {})
    return found


SCALING = ("ray/aws.yaml", "ray/gcp.yaml", "kuberay/raycluster.yaml", "kuberay/rayjob.yaml")


@pytest.mark.parametrize("path", SCALING)
def test_the_head_says_that_nodes_may_come(path: str) -> None:
    text = (CLUSTERS / path).read_text(encoding="utf-8")
    assert heads(path, text) == [{AUTOSCALING: 1}]
    assert heads(path, text.replace(AUTOSCALING, "autoscaling")) != [{AUTOSCALING: 1}]


def test_one_that_does_not_scale_says_nothing() -> None:
    path = "ray/on-prem.yaml"
    assert heads(path, (CLUSTERS / path).read_text(encoding="utf-8")) == [{}]
