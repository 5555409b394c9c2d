"""Kubernetes manifests: strict schemas of every kind, and what this project promises about limits, safety and secrets."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from .commands import check_command, check_script, quoted_in_comments, ray_start_options
from .kuberay_schema import RAY_SCHEMAS
from .places import load_all, tool

KUBERNETES = "1.37"
# What has pods below it, and where.
_TEMPLATES = {"Deployment": ["spec.template"], "StatefulSet": ["spec.template"]}


def check_manifests(text: str) -> list[str]:
    """Returns what is wrong with a file of manifests."""
    try:
        documents = load_all(text)
    except yaml.YAMLError as error:
        return [f"not well-formed: {error}"]
    faults = check_script(quoted_in_comments(text))
    for document in documents:
        name = f"{document.get('kind')}/{document.get('metadata', {}).get('name', '')}"
        faults += [f"{name}: {fault}" for fault in _check_document(document)]
    return faults or _check_together(documents)


def check_kustomization(folder: Path) -> list[str]:
    """Returns what is wrong with a kustomization: kubectl renders it, then every manifest is checked."""
    done = subprocess.run(
        [tool("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode or done.stderr.strip():
        return [done.stderr.strip()]
    return check_manifests(done.stdout)


def _check_document(document: dict[str, Any]) -> list[str]:
    kind = document.get("kind", "")
    try:
        if kind in RAY_SCHEMAS:
            jsonschema.validate(document, RAY_SCHEMAS[kind])
        else:
            strict(document)
    except jsonschema.ValidationError as error:
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}"]
    except (LookupError, ValueError, TypeError) as error:
        return [str(error)]
    if kind != "Namespace" and document["metadata"].get("namespace") != "unlearning":
        return ["metadata.namespace: must be unlearning"]
    if kind == "RayJob":
        return _check_job(document["spec"])
    if kind == "RayCluster":
        return _check_cluster(document["spec"])
    return [fault for path in _TEMPLATES.get(kind, []) for fault in _check_pod(_at(document, path), probes=True)]


def strict(document: dict[str, Any]) -> None:
    """Validates a manifest of Kubernetes' own against its schema, in which an unknown key is a fault."""
    import kubernetes_validate
    from kubernetes_validate import utils

    if not hasattr(utils.schema_contents, "cache_info"):
        utils.schema_contents = cache(utils.schema_contents)  # read for each manifest otherwise, megabytes at a time
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.SchemaNotFoundError as error:
        raise LookupError(error.message) from None


def _check_job(spec: dict[str, Any]) -> list[str]:
    entry = check_script(spec["entrypoint"])
    words = spec["entrypoint"].split()
    if words[:4] != ["python", "-m", "orchestrator", "run"] or "--store" not in words:
        entry.append("entrypoint: must be `python -m orchestrator run` with a --store")
    if "--address" not in words or words[words.index("--address") + 1] != "auto":
        entry.append("entrypoint: --address must be auto")
    if spec.get("shutdownAfterJobFinishes") is not True:
        entry.append("shutdownAfterJobFinishes: must be true, or the cluster stays and costs")
    submitter = _check_template(spec["submitterPodTemplate"], probes=False)
    return entry + [f"submitter: {fault}" for fault in submitter] + _check_cluster(spec["rayClusterSpec"])


def _check_cluster(spec: dict[str, Any]) -> list[str]:
    import ray

    faults = []
    if spec["rayVersion"] != ray.__version__:
        faults.append(f"rayVersion: {spec['rayVersion']}, but the lock has {ray.__version__}")
    if spec.get("authOptions", {}).get("mode") != "token":
        faults.append("authOptions.mode: must be token")
    groups = {"head": spec["headGroupSpec"]} | {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    for name, group in groups.items():
        given = {**group["rayStartParams"]}
        unknown = set(given) - ray_start_options()
        found = [f"rayStartParams.{key}: no option of `ray start`" for key in unknown]
        flags = [f"--{key}" if value == "true" else f"--{key}={value}" for key, value in given.items()]
        found += check_command(["ray", "start", "--head", *flags]) if not unknown else []
        found += _check_template(group["template"], probes=True)
        faults += [f"{name}: {fault}" for fault in found]
        if not group.get("minReplicas", 0) <= group.get("replicas", 0) <= group.get("maxReplicas", 1):
            faults.append(f"{name}: replicas are not between minReplicas and maxReplicas")
    gpus = [_gpus(group["template"]) for group in spec["workerGroupSpecs"]]
    if sorted(gpus) != [0, 1]:
        faults.append(f"workerGroupSpecs: one group with a GPU and one without, not {gpus}")
    return faults


def _gpus(template: dict[str, Any]) -> int:
    containers = template["spec"]["containers"]
    return sum(int(container["resources"]["limits"].get("nvidia.com/gpu", 0)) for container in containers)


def _check_template(template: dict[str, Any], probes: bool) -> list[str]:
    """A pod template in a custom resource is any mapping to its schema; as a PodTemplate it is held to Kubernetes' own."""
    manifest = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
    try:
        strict(manifest)
    except jsonschema.ValidationError as error:
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}"]
    return _check_pod(template, probes) + _check_mounts(template["spec"], set())


def _check_pod(template: dict[str, Any], probes: bool) -> list[str]:
    spec = template["spec"]
    faults = []
    security = spec.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
        faults.append("securityContext: must name a user other than root")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        faults.append("securityContext.seccompProfile: must be RuntimeDefault")
    if "automountServiceAccountToken" not in spec:
        faults.append("automountServiceAccountToken: must be said")
    for container in spec["containers"]:
        faults += [f"{container['name']}: {fault}" for fault in _check_container(container, probes)]
    return faults


def _check_mounts(spec: dict[str, Any], claims: set[str]) -> list[str]:
    volumes = claims | {volume["name"] for volume in spec.get("volumes", [])}
    mounts = [mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", [])]
    return [f"volumeMounts: no volume is called {name}" for name in mounts if name not in volumes]


def _check_container(container: dict[str, Any], probes: bool) -> list[str]:
    faults = check_command([*container.get("command", []), *container.get("args", [])])
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False or security.get("capabilities") != {"drop": ["ALL"]}:
        faults.append("securityContext: must drop ALL and refuse privilege escalation")
    resources = container.get("resources", {})
    for side in ("requests", "limits"):
        faults += [
            f"resources.{side}.{key}: missing" for key in ("cpu", "memory") if key not in resources.get(side, {})
        ]
    gpus = [resources.get(side, {}).get("nvidia.com/gpu") for side in ("requests", "limits")]
    if gpus[0] != gpus[1]:
        faults.append(f"resources: GPUs requested and limited must agree, not {gpus}")
    ports = {port.get("name") for port in container.get("ports", [])}
    for kind in ("readinessProbe", "livenessProbe"):
        if probes and kind not in container:
            faults.append(f"{kind}: missing")
    for kind in ("readinessProbe", "livenessProbe", "startupProbe"):
        port = container.get(kind, {}).get("httpGet", {}).get("port")
        if isinstance(port, str) and port not in ports:
            faults.append(f"{kind}: no port is called {port}")
    for entry in container.get("env", []):
        # Words that only secrets are called by.
        if any(word in entry["name"] for word in ("PASSWORD", "SECRET", "TOKEN", "ACCESS_KEY")) and "value" in entry:
            faults.append(f"env.{entry['name']}: a secret comes from a Secret")
    return faults


def _check_together(documents: list[dict[str, Any]]) -> list[str]:
    """Services find their pods and a port of theirs, StatefulSets their Service and claims."""
    faults = []
    workloads = [document for document in documents if document["kind"] in _TEMPLATES]
    services = {
        document["metadata"]["name"]: document["spec"] for document in documents if document["kind"] == "Service"
    }
    for document in workloads:
        spec, labels = document["spec"], document["spec"]["template"]["metadata"]["labels"]
        if not spec["selector"]["matchLabels"].items() <= labels.items():
            faults.append(f"{document['metadata']['name']}: the selector does not match the pods")
        claims = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
        faults += _check_mounts(spec["template"]["spec"], claims)
        if "serviceName" in spec and spec["serviceName"] not in services:
            faults.append(f"{document['metadata']['name']}: no Service {spec['serviceName']}")
    for name, service in services.items():
        pods = [
            workload["spec"]["template"]
            for workload in workloads
            if service["selector"].items() <= workload["spec"]["template"]["metadata"]["labels"].items()
        ]
        if not pods:
            faults.append(f"Service {name}: no pod matches")
        named = {
            port["name"]
            for pod in pods
            for container in pod["spec"]["containers"]
            for port in container.get("ports", [])
        }
        faults += [
            f"Service {name}: no port {port['targetPort']}"
            for port in service["ports"]
            if port["targetPort"] not in named
        ]
    return faults


def _at(document: dict[str, Any], path: str) -> Any:
    for key in path.split("."):
        document = document[key]
    return document
