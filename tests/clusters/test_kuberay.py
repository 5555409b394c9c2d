"""The Kubernetes manifests are accepted by strict schemas and rendered by kubectl, and planted faults are noticed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .kuberay import check_kustomization, check_manifests
from .mutation import noticed, plant
from .places import CLUSTERS, load_all

FOLDER = CLUSTERS / "kuberay"
FILES = ("namespace", "network-policy", "mlflow", "raycluster", "rayjob")


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FILES)
def test_file_is_accepted(name: str) -> None:
    assert check_manifests(text_of(name)) == []


def test_kubectl_renders_the_kustomization() -> None:
    assert check_kustomization(FOLDER) == []


def test_no_file_is_left_out() -> None:
    (kustomization,) = load_all(text_of("kustomization"))
    assert {path.stem for path in FOLDER.iterdir()} == {*FILES, "kustomization"}
    assert set(kustomization["resources"]) == {f"{name}.yaml" for name in FILES if name != "rayjob"}


def test_policies_select_pods_that_there_are() -> None:
    pods = [
        document["spec"]["template"]["metadata"]["labels"]
        for document in load_all(text_of("mlflow"))
        if "template" in document["spec"]
    ]
    # KubeRay puts this one on every pod of a Ray cluster.
    pods.append({"ray.io/is-ray-node": "yes"})
    for policy in load_all(text_of("network-policy")):
        wanted = policy["spec"]["podSelector"]["matchLabels"].items()
        assert wanted
        assert any(wanted <= labels.items() for labels in pods), policy["metadata"]["name"]


MUTATIONS = {
    "namespace": [
        ("kind: Namespace", "kind: Namespaces"),
        ("metadata:", "metdata:"),
        ("labels:", "lables:"),
        ("restricted", "{restricted: yes}"),
    ],
    "network-policy": [
        ("podSelector:", "podSelectors:"),
        ("policyTypes: [Ingress]", "policyTypes: Ingress"),
        ("port: 8265", "prot: 8265"),
        ("namespace: unlearning", "namespace: unlearnin"),
        ("networking.k8s.io/v1", "networking.k8s.io/v2"),
    ],
    "mlflow": [
        ("- server", "- sever"),
        ("--artifacts-destination=", "--artifact-destination="),
        ("--port=5000", "--port=http"),
        ("replicas: 1", "replicas: one"),
        ("readinessProbe:", "readynessProbe:"),
        ('limits: {cpu: "1", memory: 1Gi}', 'limits: {cpu: "1"}'),
        ("targetPort: http", "targetPort: htpt"),
        ("httpGet: &health {path: /health, port: http", "httpGet: &health {path: /health, port: web"),
        ("selector: {app.kubernetes.io/name: postgres}", "selector: {app.kubernetes.io/name: postgresql}"),
        ("serviceName: postgres", "serviceName: postgrse"),
        ("name: data, mountPath", "name: date, mountPath"),
        ("valueFrom: {secretKeyRef: {name: mlflow-db, key: password}}", "value: hunter2"),
        ("secretKeyRef: {name: mlflow-db", "secretKeyref: {name: mlflow-db"),
        ("runAsNonRoot: true", "runAsNonRoot: false"),
        ("runAsNonRoot: true", "runAsNonroot: true"),
        ("capabilities: {drop: [ALL]}", "capabilities: {drop: []}"),
        ("storage: 10Gi", "storage: [10Gi]"),
        ("accessModes:", "accesModes:"),
    ],
    "raycluster": [
        ("ray.io/v1", "ray.io/v1alpha1"),
        ("headGroupSpec:", "headGroupSpecs:"),
        ("rayVersion: 2.60.0", "rayVersion: 2.59.0"),
        ("mode: token", "mode: disabled"),
        ("mode: token", "mod: token"),
        ("idleTimeoutSeconds: 300", "idleTimeoutSecond: 300"),
        ("idleTimeoutSeconds: 300", "idleTimeoutSeconds: 5m"),
        ('num-cpus: "0"', 'num-cpu: "0"'),
        ('num-cpus: "0"', "num-cpus: 0"),
        ('num-cpus: "0"', "num-cpus: none"),
        ("serviceType: ClusterIP", "serviceType: LoadBalancer"),
        ("maxReplicas: 8", "maxReplica: 8"),
        ("minReplicas: 0", "minReplicas: 9"),
        ('nvidia.com/gpu: "1"}', 'nvidia.com/gpu: "2"}'),
        ("tolerations:", "toleration:"),
        ("livenessProbe:", "livelinessProbe:"),
        ("{name: shm, mountPath", "{name: shn, mountPath"),
        ("failureThreshold: 10", "failureThreshold: ten"),
        ("valueFrom: {secretKeyRef: {name: store, key: access-key}}", "value: AKIA"),
        ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"),
        ("matchExpressions: [", "matchExpresions: ["),
    ],
    "rayjob": [
        ("kind: RayJob", "kind: RayJobs"),
        ("orchestrator run demo", "orchestrator rum demo"),
        ("orchestrator run demo", "orchestrator run demmo"),
        ("--address auto", "--adress auto"),
        ("--address auto", "--address local"),
        ("--store s3://BUCKET/store", ""),
        ("--set tracking.uri", "--set tracking.url"),
        ("shutdownAfterJobFinishes: true", "shutdownAfterJobFinished: true"),
        ("shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false"),
        ("ttlSecondsAfterFinished: 60", "ttlSecondsAfterFinished: 1m"),
        ("restartPolicy: Never", "restartPolcy: Never"),
        ("submissionMode: K8sJobMode", "submissionMode: K8SJobMode"),
        ("rayClusterSpec:", "rayCluster:"),
        ("backoffLimit: 2\n", "backoffLimit: -1\n"),
        ("periodSeconds: 15", "periodSecond: 15"),
    ],
}


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "old", "new"), [(name, *mutation) for name, mutations in MUTATIONS.items() for mutation in mutations]
)
def test_planted_fault_is_noticed(name: str, old: str, new: str) -> None:
    assert noticed(check_manifests, text_of(name), old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("resources:", "resource:"),
        ("  - mlflow.yaml", "  - mlflwo.yaml"),
        ("kind: Kustomization", "kind: Kustomisation"),
        ("namespace: unlearning", "namespace: somewhere"),
        ("namespace: unlearning", "namesapce: unlearning"),
    ],
)
def test_planted_fault_in_the_kustomization_is_noticed(tmp_path: Path, old: str, new: str) -> None:
    folder = tmp_path / "kuberay"
    shutil.copytree(FOLDER, folder)
    (folder / "kustomization.yaml").write_text(plant(text_of("kustomization"), old, new), encoding="utf-8")
    assert check_kustomization(folder)
