"""`ray up` files: Ray's own validation, the cloud's own model of a machine, and what this project promises about safety."""

from __future__ import annotations

import gzip
import ipaddress
import json
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema
import yaml

from .commands import check_script, quoted_in_comments
from .places import load_all, walk

# What Ray reads from `provider`, by its type; Ray itself takes any key there.
_PROVIDER_KEYS = {
    "local": {"type", "head_ip", "worker_ips", "coordinator_address"},
    "aws": {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "security_group"},
    "gcp": {"type", "region", "availability_zone", "project_id", "cache_stopped_nodes", "use_internal_ips"},
}
_PRIVATE = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8")]


def check_ray_up(text: str) -> list[str]:
    """Returns what is wrong with a `ray up` file."""
    try:
        (config,) = load_all(text)
        faults = _by_ray(json.loads(json.dumps(config)))
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, AssertionError, RuntimeError) as error:
        return [f"{type(error).__name__}: {error}"]
    if faults:
        return faults
    provider = config["provider"]
    faults = [f"provider.{key}: unknown" for key in provider if key not in _PROVIDER_KEYS.get(provider["type"], set())]
    for name, kind in config.get("available_node_types", {}).items():
        faults += [f"{name}: {fault}" for fault in _check_node(provider["type"], kind)]
    faults += _check_safety(config)
    for key, value in walk(config):
        if "commands" in key and isinstance(value, str):
            faults += [f"{key}: {fault}" for fault in check_script(value)]
    return faults + check_script(quoted_in_comments(text))


def _by_ray(config: dict[str, Any]) -> list[str]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(config))
    except (jsonschema.ValidationError, SystemExit, Exception) as error:
        return [f"ray: {getattr(error, 'message', error)}"]
    return []


def _check_node(provider: str, kind: dict[str, Any]) -> list[str]:
    node, gpus = kind["node_config"], kind["resources"].get("GPU", 0)
    unknown = [f"resources.{name}: unknown" for name in kind["resources"] if name not in ("CPU", "GPU", "memory")]
    if provider == "aws":
        return unknown + _check_aws(node, gpus)
    if provider == "gcp":
        return unknown + _check_gcp(node, gpus)
    return unknown


def _check_aws(node: dict[str, Any], gpus: int) -> list[str]:
    from botocore.validate import ParamValidator

    # Ray takes a list of subnets, of which it chooses one, and sets the counts itself.
    subnets = node.get("SubnetIds", [])
    faults = (
        [] if isinstance(subnets, list) and all(isinstance(name, str) for name in subnets) else ["SubnetIds: a list"]
    )
    given = {key: value for key, value in node.items() if key != "SubnetIds"} | {"MinCount": 1, "MaxCount": 1}
    shape = _ec2().operation_model("RunInstances").input_shape
    report = ParamValidator().validate(given, shape)
    if report.has_errors():
        return [*faults, report.generate_report()]
    faults += _aws_enums(given, shape, "")
    # The families that have NVIDIA GPUs.
    if bool(gpus) != node["InstanceType"].startswith(("g", "p")):
        faults.append(f"InstanceType: {node['InstanceType']} and resources.GPU {gpus} do not agree")
    return faults


def _aws_enums(value: Any, shape: Any, path: str) -> list[str]:
    """botocore checks names and types; which words a field knows is in its model too, but left to the service."""
    if shape.type_name == "structure":
        return [fault for key in value for fault in _aws_enums(value[key], shape.members[key], f"{path}.{key}")]
    if shape.type_name == "list":
        return [fault for inner in value for fault in _aws_enums(inner, shape.member, path)]
    allowed = getattr(shape, "enum", None)
    return [f"{path}: {value!r} is none of {len(allowed)} known words"] if allowed and value not in allowed else []


@cache
def _ec2() -> Any:
    from botocore.model import ServiceModel

    folder = files("botocore") / "data" / "ec2"
    newest = max(version.name for version in folder.iterdir())
    packed = (folder / newest / "service-2.json.gz").read_bytes()
    return ServiceModel(json.loads(gzip.decompress(packed)), "ec2")


def _check_gcp(node: dict[str, Any], gpus: int) -> list[str]:
    faults = _gcp_shape(node, {"$ref": "Instance"}, "")
    if faults:
        return faults
    given = sum(entry["acceleratorCount"] for entry in node.get("guestAccelerators", []))
    if given != gpus:
        faults.append(f"guestAccelerators: {given} of them and resources.GPU {gpus} do not agree")
    if gpus and node.get("scheduling", {}).get("onHostMaintenance") != "TERMINATE":
        faults.append("scheduling.onHostMaintenance: a machine with GPUs must have TERMINATE")
    return faults


def _gcp_shape(value: Any, schema: dict[str, Any], path: str) -> list[str]:
    if "$ref" in schema:
        schema = _compute()[schema["$ref"]]
    kind = schema.get("type", "object")
    if kind == "object":
        if not isinstance(value, dict):
            return [f"{path}: {value!r} is no mapping"]
        known, rest = schema.get("properties", {}), schema.get("additionalProperties")
        faults = [f"{path}.{key}: unknown" for key in value if key not in known and rest is None]
        return faults + [
            fault
            for key, inner in value.items()
            if key in known or rest is not None
            for fault in _gcp_shape(inner, known.get(key, rest), f"{path}.{key}")
        ]
    if kind == "array":
        if not isinstance(value, list):
            return [f"{path}: {value!r} is no list"]
        return [fault for n, inner in enumerate(value) for fault in _gcp_shape(inner, schema["items"], f"{path}.{n}")]
    # The API writes 64-bit integers as text and takes both.
    expected: tuple[type, ...] = {"string": (str,), "integer": (int,), "boolean": (bool,), "number": (int, float)}[kind]
    if schema.get("format") in ("int64", "uint64"):
        expected = (str, int)
    if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
        return [f"{path}: {value!r} is no {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{path}: {value!r}; allowed: {', '.join(schema['enum'])}"]
    return []


@cache
def _compute() -> dict[str, Any]:
    document = files("googleapiclient") / "discovery_cache" / "documents" / "compute.v1.json"
    return dict(json.loads(document.read_text(encoding="utf-8"))["schemas"])


def _check_safety(config: dict[str, Any]) -> list[str]:
    """The job API is on loopback, Ray on private addresses, and both ask for the token, which is mounted."""
    faults = []
    provider = config["provider"]
    if provider["type"] == "local":
        try:
            given = [ipaddress.ip_address(ip) for ip in [provider["head_ip"], *provider["worker_ips"]]]
            outward = [ip for ip in given if not any(ip in network for network in _PRIVATE)]
        except ValueError as error:
            return [f"provider: {error}"]
        faults += [f"provider: {ip} is a public address" for ip in outward]
    elif provider.get("use_internal_ips") is not True:
        faults.append("provider.use_internal_ips: must be true")
    starts = {key: " ".join(config[f"{key}_start_ray_commands"]) for key in ("head", "worker")}
    if "--dashboard-host=127.0.0.1" not in starts["head"]:
        faults.append("head_start_ray_commands: the dashboard must be on 127.0.0.1")
    options = " ".join(config.get("docker", {}).get("run_options", []))
    for key, command in starts.items():
        if "RAY_AUTH_MODE=token" not in command + options or "RAY_AUTH_TOKEN_PATH=" not in command + options:
            faults.append(f"{key}_start_ray_commands: no token is asked for")
    folder = next((place for place in config["file_mounts"] if "token" in place), None)
    if folder is None:
        faults.append("file_mounts: the token is not mounted")
    elif f"{folder.replace('~', '$HOME')}/auth_token" not in starts["head"] + options:
        faults.append(f"file_mounts: {folder} is not where RAY_AUTH_TOKEN_PATH looks")
    if not 0 < config.get("idle_timeout_minutes", 0) <= 30:
        faults.append("idle_timeout_minutes: between 1 and 30")
    return faults
