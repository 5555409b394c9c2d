"""What KubeRay's operator accepts in a RayCluster and a RayJob, as far as this project may use it; all else is refused.

Pod templates are any mapping here: they are checked against Kubernetes' own schema, see `kuberay.py`.
"""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 0}
_FLAG = {"type": "boolean"}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_QUANTITY = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": r"^\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"},
    ]
}
_QUANTITIES = {"type": "object", "additionalProperties": _QUANTITY}
_TEMPLATE = {
    "type": "object",
    "required": ["spec"],
    "properties": {"metadata": {"type": "object"}, "spec": {"type": "object", "required": ["containers"]}},
    "additionalProperties": False,
}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


_RESOURCES = _object(["requests", "limits"], requests=_QUANTITIES, limits=_QUANTITIES)

_AUTOSCALER = _object(
    ["idleTimeoutSeconds", "resources", "securityContext"],
    version={"enum": ["v1", "v2"]},
    idleTimeoutSeconds={"type": "integer", "minimum": 30, "maximum": 1800},
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    image=_TEXT,
    imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    resources=_RESOURCES,
    securityContext=_object(
        ["allowPrivilegeEscalation", "capabilities"],
        allowPrivilegeEscalation={"const": False},
        capabilities=_object(["drop"], drop={"const": ["ALL"]}),
        runAsNonRoot={"const": True},
    ),
)

# Numbers among the parameters must be written as text: the operator's field is a map of strings.
_HEAD = _object(
    ["rayStartParams", "template"],
    serviceType={"enum": ["ClusterIP"]},  # NodePort and LoadBalancer would put the job API outside
    enableIngress={"const": False},
    rayStartParams=_TEXTS,
    template=_TEMPLATE,
    resources=_TEXTS,
    labels=_TEXTS,
)

_WORKERS = _object(
    ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
    groupName={"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"},
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    numOfHosts={"type": "integer", "minimum": 1},
    idleTimeoutSeconds=_COUNT,
    suspend=_FLAG,
    rayStartParams=_TEXTS,
    template=_TEMPLATE,
    resources=_TEXTS,
    labels=_TEXTS,
)

_CLUSTER = _object(
    ["rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"],
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=_object(["mode"], mode={"enum": ["token", "disabled"]}, secretName=_TEXT),
    enableInTreeAutoscaling=_FLAG,
    autoscalerOptions=_AUTOSCALER,
    headServiceAnnotations=_TEXTS,
    suspend=_FLAG,
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "minItems": 1, "items": _WORKERS},
)

_JOB = _object(
    ["entrypoint", "rayClusterSpec", "submitterPodTemplate", "shutdownAfterJobFinishes"],
    entrypoint=_TEXT,
    entrypointNumCpus={"type": "number", "minimum": 0},
    entrypointNumGpus={"type": "number", "minimum": 0},
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode"]},
    shutdownAfterJobFinishes=_FLAG,
    ttlSecondsAfterFinished=_COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    backoffLimit=_COUNT,
    runtimeEnvYAML=_TEXT,
    metadata=_TEXTS,
    suspend=_FLAG,
    submitterConfig=_object([], backoffLimit=_COUNT),
    submitterPodTemplate=_TEMPLATE,
    rayClusterSpec=_CLUSTER,
)


def _resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = _object(
        ["namespace"], name=_TEXT, generateName=_TEXT, namespace=_TEXT, labels=_TEXTS, annotations=_TEXTS
    )
    metadata["oneOf"] = [{"required": ["name"]}, {"required": ["generateName"]}]
    return _object(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )


RAY_SCHEMAS = {"RayCluster": _resource("RayCluster", _CLUSTER), "RayJob": _resource("RayJob", _JOB)}
