"""`orchestrator doctor`: what is here, what is wrong, and how to mend it."""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..base.errors import EXIT_ENVIRONMENT, EXIT_OK, first_line
from ..base.provenance import versions
from ..base.text import holds_credentials, redact
from ..engine.ray.health import (
    GIB,
    LEAST_DISK,
    LONGEST_RAY_FOLDER,
    Finding,
    MachineFacts,
    facts,
    judge_machine,
    judge_worker,
    leave_probe,
    read_probe,
)
from ..engine.start import ray_session
from ..recipe.places import expand, sqlite_path, store_faults, tracking_faults
from ..records.mlflow_server import mlflow_client
from ..store import open_store
from .ending import print_json

if TYPE_CHECKING:
    from ..engine.ray.session import RaySession

WORKER_SECONDS = 120


def main(args: argparse.Namespace) -> int:
    findings = [
        *_guard("packages", _packages),
        *_guard("this machine", lambda: _machine(facts())),
        *_guard("Ray's settings", _settings),
    ]
    if args.store:
        findings += _guard("store", lambda: _store(args.store))
    findings += _ray(args.address, args.store)
    tracking = args.tracking or os.environ.get("MLFLOW_TRACKING_URI", "")
    if tracking:
        findings += _guard("MLflow", lambda: _tracking(tracking))
    well = all(finding.ok for finding in findings)
    if args.json:
        print_json({"ok": well, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'BAD '} {finding.what:<22} {finding.found}")
            if finding.mend:
                print(f"     {'':<22} mend: {finding.mend}")
    return EXIT_OK if well else EXIT_ENVIRONMENT


def _guard(what: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except Exception as error:
        return [Finding(what, False, redact(first_line(error)), "see the message")]


def _packages() -> list[Finding]:
    found = versions()
    missing = [name for name in ("torch", "ray", "mlflow", "pyarrow") if name not in found]
    if not {"xgboost", "xgboost-cpu"} & set(found):
        missing.append("xgboost")
    shown = ", ".join(f"{name} {text}" for name, text in found.items())
    mend = "pip install 'unlearning-orchestrator[cpu]', or [gpu] on a GPU machine" if missing else ""
    return [Finding("packages", not missing, shown if not missing else f"missing: {', '.join(missing)}", mend)]


def _machine(seen: MachineFacts) -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    disk = Finding(
        "disk here",
        free >= LEAST_DISK,
        f"{free:.1f} GiB free in {Path.cwd()}",
        "" if free >= LEAST_DISK else "free some space, or run from another folder",
    )
    well = f"{seen['memory']:.1f} GiB of memory free, {seen['cuda']} GPUs, {seen['open_files']} open files allowed"
    return [disk, *(judge_machine("this machine", seen) or [Finding("this machine", True, well)])]


def _settings() -> list[Finding]:
    """Looks at what Ray reads from the environment: a token that others can read, a folder too deep
    for sockets."""
    found = []
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if os.environ.get("RAY_AUTH_MODE") == "token" and token:
        path = Path(token)
        if not path.is_file():
            found.append(
                Finding(
                    "Ray's token",
                    False,
                    f"RAY_AUTH_TOKEN_PATH names {token}, which is not there",
                    "copy it from the head",
                )
            )
        elif path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            found.append(Finding("Ray's token", False, f"{token} can be read by others", f"chmod 600 {token}"))
        else:
            found.append(Finding("Ray's token", True, f"{token}, readable by this user alone"))
    folder = os.environ.get("RAY_TMPDIR", "")
    if len(folder) > LONGEST_RAY_FOLDER:
        found.append(
            Finding(
                "RAY_TMPDIR",
                False,
                f"{len(folder)} characters: too long for the names of sockets",
                "export RAY_TMPDIR=/tmp/ray",
            )
        )
    return found


def _store(uri: str) -> list[Finding]:
    for fault in store_faults(uri):
        return [Finding("store", False, str(fault), fault.allowed)]
    started = time.perf_counter()
    key = leave_probe(uri)
    open_store(uri).remove(key)
    return [
        Finding("store", True, f"{uri}: written, read and removed in {1000 * (time.perf_counter() - started):.0f} ms")
    ]


def _ray(address: str | None, store: str | None) -> list[Finding]:
    session: RaySession | None = None
    findings: list[Finding] = []
    try:
        session = ray_session(address)
        cpus, gpus, nodes = session.cpus(), session.gpus(), session.nodes()
        findings.append(Finding("Ray", True, f"{nodes} node{'s' if nodes != 1 else ''}, {cpus:g} CPUs, {gpus:g} GPUs"))
        free = session.ray.available_resources().get("CPU", 0.0)
        mend = "" if free >= 1 else "other work holds every CPU, and Ray Data needs one: wait, or add a node"
        findings.append(Finding("free CPUs", free >= 1, f"{free:g} of {cpus:g}", mend))
        findings += _workers(session, store)
    except Exception as error:
        mend = "is the head running, and RAY_AUTH_MODE the same here and there?"
        findings.append(Finding("Ray", False, first_line(error), mend))
    finally:
        if session is not None:
            session.close()
    return findings


def _workers(session: RaySession, store: str | None) -> list[Finding]:
    """Looks from a worker on every node, at all of them at once."""
    ray = session.ray
    here = facts()
    probe, problem = "", ""
    if store:
        try:
            probe = leave_probe(store)
        except Exception as error:
            problem = first_line(error)
    look = ray.remote(num_cpus=0)(facts)
    asked = []
    for node in [node for node in ray.nodes() if node["Alive"]]:
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        reference = look.options(scheduling_strategy=strategy).remote(store if probe else None, probe)
        name, gpus = f"worker {node['NodeManagerAddress']}", int(node["Resources"].get("GPU", 0))
        asked.append((name, gpus, strategy, reference))
    findings = [Finding("store", False, problem, "choose a store that can be written")] if problem else []
    for name, gpus, strategy, reference in asked:
        try:
            seen = ray.get(reference, timeout=WORKER_SECONDS)
        except Exception as error:
            lines = str(error).strip().splitlines()
            mend = "install the package there; is the node overloaded, or unreachable?"
            findings.append(Finding(name, False, lines[-1] if lines else type(error).__name__, mend))
            continue
        seen["skew"] = _skew(ray, strategy)
        if probe and seen["made"] and seen["store"] == "read" and not read_probe(store or "", seen["made"]):
            seen["store"] = "not the same"
        findings += judge_worker(name, seen, here, gpus, store if probe else None)
        if store and seen["made"]:
            with suppress(Exception):
                open_store(store).remove(seen["made"])
    if store and probe:
        with suppress(Exception):
            open_store(store).remove(probe)
    return findings


def _skew(ray: ModuleType, strategy: object) -> float:
    """Returns a node's clock less this one's in seconds, to within half the round trip of the
    fastest of three calls."""

    @ray.remote(num_cpus=0, scheduling_strategy=strategy)
    def clock() -> float:
        return time.time()

    best = (float("inf"), 0.0)
    for _ in range(3):
        before = time.time()
        there = ray.get(clock.remote(), timeout=WORKER_SECONDS)
        after = time.time()
        best = min(best, (after - before, there - (before + after) / 2))
    return best[1]


def _tracking(uri: str) -> list[Finding]:
    shown = redact(uri)
    for fault in tracking_faults(uri):
        return [Finding("MLflow", False, str(fault), fault.allowed)]
    path = sqlite_path(expand(uri))
    if path is not None and path.is_file():
        with sqlite3.connect(path, timeout=1.0) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
                database.rollback()
            except sqlite3.OperationalError as error:
                mend = "another process holds it: end that one, or use an MLflow server"
                return [Finding("MLflow", False, f"{shown}: {error}", mend)]
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    started = time.perf_counter()
    try:
        experiments = mlflow_client(expand(uri)).search_experiments(max_results=5)
    except Exception as error:
        mend = "is the server running, and MLFLOW_TRACKING_USERNAME, _PASSWORD or _TOKEN right? Experiments go on without it"
        return [Finding("MLflow", False, f"{shown}: {redact(first_line(error))[-160:]}", mend)]
    took = time.perf_counter() - started
    slow = took > 5.0
    hint = "; write ${NAME} in recipes, so that its credentials are not stored" if holds_credentials(uri) else ""
    mend = "logging lags behind, experiments do not: look at the server's database" if slow else ""
    return [
        Finding(
            "MLflow", not slow, f"{shown}: answers in {took:.1f} s, {len(experiments)} experiments or more{hint}", mend
        )
    ]
