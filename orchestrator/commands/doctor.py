"""`orchestrator doctor`: what is here, what is wrong, and how to mend it."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import EXIT_ENVIRONMENT, EXIT_OK


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found, whether it is well, and how to mend it where it is not."""

    what: str
    ok: bool
    found: str
    mend: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        metavar="auto|HOST:PORT|local",
        help="Ray cluster to look at (default: RAY_ADDRESS where set, else local)",
    )
    parser.add_argument("--store", metavar="DIR|s3://…", help="store that workers must be able to read and write")
    parser.add_argument("--tracking", metavar="URI", default="", help="MLflow tracking URI to try")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(args: argparse.Namespace) -> int:
    from ..cli import print_json

    findings = [_guard("packages", _packages), _guard("disk", _disk)]
    findings += _ray(args.address or os.environ.get("RAY_ADDRESS"), args.store)
    if args.tracking:
        findings.append(_guard("MLflow", lambda: _tracking(args.tracking)))
    well = all(finding.ok for finding in findings)
    if args.json:
        print_json({"ok": well, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'BAD '} {finding.what:<22} {finding.found}")
            if finding.mend:
                print(f"     {'':<22} mend: {finding.mend}")
    return EXIT_OK if well else EXIT_ENVIRONMENT


def _guard(what: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Exception as error:
        lines = str(error).strip().splitlines()
        return Finding(what, False, lines[0] if lines else type(error).__name__, "see the message")


def _packages() -> Finding:
    from ..results import versions

    found = versions()
    missing = [name for name in ("torch", "ray", "mlflow", "pyarrow") if name not in found]
    if not {"xgboost", "xgboost-cpu"} & set(found):
        missing.append("xgboost")
    shown = ", ".join(f"{name} {text}" for name, text in found.items())
    mend = "pip install 'unlearning-orchestrator[cpu]', or [gpu] on a GPU machine" if missing else ""
    return Finding("packages", not missing, shown if not missing else f"missing: {', '.join(missing)}", mend)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding(
        "disk here",
        free > 2,
        f"{free:.0f} GiB free in {Path.cwd()}",
        "" if free > 2 else "free some space, or run from another folder",
    )


def _ray(address: str | None, store: str | None) -> list[Finding]:
    from ..engine.session import RaySession

    findings: list[Finding] = []
    session: RaySession | None = None
    try:
        session = RaySession(address)
        cpus, gpus, nodes = session.cpus(), session.gpus(), session.nodes()
        findings.append(Finding("Ray", True, f"{nodes} nodes, {cpus:g} CPUs, {gpus:g} GPUs"))
        free = session.ray.available_resources().get("CPU", 0.0)
        findings.append(
            Finding(
                "free CPUs",
                free >= 1,
                f"{free:g} of {cpus:g}",
                "" if free >= 1 else "other work holds every CPU: wait, or add a node",
            )
        )
        findings += _workers(session, store)
    except Exception as error:
        lines = str(error).strip().splitlines()
        findings.append(
            Finding(
                "Ray",
                False,
                lines[0] if lines else type(error).__name__,
                "is the head running, and RAY_AUTH_MODE the same here and there?",
            )
        )
    finally:
        if session is not None:
            session.close()
    return findings


def _workers(session: Any, store: str | None) -> list[Finding]:
    """Looks from a worker on every node: torch sees its GPUs, and the store can be written and read back."""
    ray = session.ray

    @ray.remote(num_cpus=0)
    def look(uri: str | None) -> dict[str, Any]:
        import hashlib
        import socket

        import torch

        seen: dict[str, Any] = {"host": socket.gethostname(), "cuda": torch.cuda.device_count(), "store": ""}
        if uri:
            from orchestrator.store import open_store

            opened = open_store(uri)
            key = hashlib.sha256(os.urandom(16)).hexdigest()
            with opened.attempt(key) as attempt:
                attempt.path("probe").write_text("probe")
                attempt.commit({"kind": "probe"})
            opened.fetch(key, "probe")
            opened.remove(key)
            seen["store"] = "written and read"
        return seen

    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    findings = []
    for node in [node for node in ray.nodes() if node["Alive"]]:
        name = f"worker {node['NodeManagerAddress']}"
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        try:
            seen = ray.get(look.options(scheduling_strategy=strategy).remote(store), timeout=120)
        except Exception as error:
            lines = str(error).strip().splitlines()
            findings.append(
                Finding(
                    name,
                    False,
                    lines[-1] if lines else type(error).__name__,
                    "install the package there, and mount or reach the store",
                )
            )
            continue
        declared = int(node["Resources"].get("GPU", 0))
        agrees = seen["cuda"] >= declared
        stored = f", store {seen['store']}" if seen["store"] else ""
        mend = (
            ""
            if agrees
            else f"Ray has {declared} GPUs here, torch sees {seen['cuda']}: install a CUDA build of torch, or start the node with the true --num-gpus"
        )
        findings.append(Finding(name, agrees, f"{seen['host']}: torch sees {seen['cuda']} GPUs{stored}", mend))
    return findings


def _tracking(uri: str) -> Finding:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow.tracking import MlflowClient

    experiments = MlflowClient(tracking_uri=uri).search_experiments(max_results=5)
    return Finding("MLflow", True, f"{uri}: answers, {len(experiments)} experiments or more")
