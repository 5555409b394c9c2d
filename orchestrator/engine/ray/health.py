"""What makes an environment fit for experiments: facts are gathered here and on every node, then
judged apart from that.
"""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import psutil
import torch

from ...base.provenance import versions
from ...store import open_store

GIB = 2**30
LEAST_DISK = 2.0  # GiB
LEAST_MEMORY = 1.0
LEAST_SHM = 1.0
LEAST_FILES = 1024
MOST_SKEW = 5.0  # seconds
LONGEST_RAY_FOLDER = 60  # characters: socket names below it may not exceed 107 bytes
DECISIVE = ("torch", "ray", "pyarrow", "numpy", "unlearning-orchestrator")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found, whether it is well, and how to mend it where it
    is not.
    """

    what: str
    ok: bool
    found: str
    mend: str = ""


def code_digest() -> str:
    """Returns a digest of the code of the three packages as this process would import it."""
    root = Path(__file__).resolve().parents[3]
    hasher = hashlib.sha256()
    for package in ("orchestrator", "unlearn", "attack"):
        for path in sorted((root / package).rglob("*.py")):
            hasher.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()[:12]


class MachineFacts(TypedDict):
    """What is to be known of one machine.

    `memory`, `scratch_free` and `shm` are GiB; `time` and `skew` seconds. `store` says what came of
    reading a probe, `made` is the key of one that was left; null where there is no store.
    """

    host: str
    time: float
    python: str
    versions: dict[str, str]
    code: str
    cuda: int
    memory: float
    scratch: str
    scratch_free: float
    shm: float | None
    open_files: int
    store: str | None
    made: str | None
    skew: NotRequired[float]


def facts(store: str | None = None, probe: str = "") -> MachineFacts:
    """Returns what is to be known of this machine; runs in the driver and in a task on every node.

    **Arguments:** `store`: one to write to and read from; `probe`: the key of an object that the
    driver put there.
    """
    found = versions()
    seen: MachineFacts = {
        "host": socket.gethostname(),
        "time": time.time(),
        "python": platform.python_version(),
        "versions": {name: found[name] for name in DECISIVE if name in found},
        "code": code_digest(),
        "cuda": torch.cuda.device_count(),
        "memory": psutil.virtual_memory().available / GIB,
        "scratch": tempfile.gettempdir(),
        "scratch_free": shutil.disk_usage(tempfile.gettempdir()).free / GIB,
        "shm": shutil.disk_usage("/dev/shm").total / GIB if Path("/dev/shm").is_dir() else None,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "store": None,
        "made": None,
    }
    if store:
        try:
            seen["made"] = leave_probe(store)
            seen["store"] = "read" if read_probe(store, probe) else "not the same"
        except Exception as error:
            lines = str(error).strip().splitlines()
            seen["store"] = lines[0] if lines else type(error).__name__
    return seen


def leave_probe(store: str) -> str:
    """Puts a small object into a store and returns its key."""
    key = hashlib.sha256(os.urandom(16)).hexdigest()
    with open_store(store).attempt(key) as attempt:
        attempt.path("probe").write_text("probe")
        attempt.commit({"kind": "probe"})
    return key


def read_probe(store: str, key: str) -> bool:
    """Whether an object that somebody else put into the store is there and whole."""
    opened = open_store(store)
    return opened.has(key) and opened.fetch(key, "probe").read_text() == "probe"


def judge_machine(name: str, seen: MachineFacts) -> list[Finding]:
    """Returns what is wrong with one machine's own facts; nothing where all is well."""
    found = []
    if seen["memory"] < LEAST_MEMORY:
        found.append(
            Finding(
                name,
                False,
                f"{seen['memory']:.1f} GiB of memory free",
                "end other work there, or give units to another node",
            )
        )
    if seen["scratch_free"] < LEAST_DISK:
        found.append(
            Finding(
                name,
                False,
                f"{seen['scratch_free']:.1f} GiB free in {seen['scratch']}",
                "free some space, or set TMPDIR to a larger disk",
            )
        )
    if seen["shm"] is not None and seen["shm"] < LEAST_SHM:
        found.append(
            Finding(
                name,
                False,
                f"/dev/shm has {seen['shm']:.2f} GiB: Ray's object store falls back to a slow disk",
                "docker run --shm-size=4g, or an emptyDir with medium: Memory at /dev/shm",
            )
        )
    if 0 <= seen["open_files"] < LEAST_FILES:
        found.append(
            Finding(name, False, f"{seen['open_files']} open files allowed", "ulimit -n 65536 before starting Ray")
        )
    return found


def judge_worker(name: str, seen: MachineFacts, here: MachineFacts, gpus: int, store: str | None) -> list[Finding]:
    """Returns the findings on a node: its machine, that it runs the same as the driver, sees its
    GPUs and the same store.

    **Arguments:** `seen`: the node's facts with `skew`, its clock less the driver's in seconds;
    `here`: the driver's; `gpus`: how many Ray declares there.
    """
    found = judge_machine(name, seen)
    apart = [
        f"{what} {seen['versions'].get(what, 'missing')} instead of {version}"
        for what, version in here["versions"].items()
        if seen["versions"].get(what) != version
    ]
    if seen["python"].rsplit(".", 1)[0] != here["python"].rsplit(".", 1)[0]:
        apart.insert(0, f"Python {seen['python']} instead of {here['python']}")
    if apart:
        found.append(
            Finding(name, False, ", ".join(apart), "install the same versions there: pip install -c requirements.lock")
        )
    if seen["code"] != here["code"]:
        found.append(
            Finding(
                name,
                False,
                f"another state of this project's code ({seen['code']} instead of {here['code']})",
                "install the same commit there, or submit with --ship-code",
            )
        )
    if abs(seen["skew"]) > MOST_SKEW:
        found.append(
            Finding(
                name, False, f"its clock is {seen['skew']:+.0f} s off", "turn NTP on there: timedatectl set-ntp true"
            )
        )
    if seen["cuda"] < gpus:
        found.append(
            Finding(
                name,
                False,
                f"Ray has {gpus} GPUs here, torch sees {seen['cuda']}",
                "install a CUDA build of torch, or start the node with the true --num-gpus",
            )
        )
    if store and seen["store"] == "not the same":
        found.append(
            Finding(
                name,
                False,
                f"{store} is another folder there than here",
                "give a folder that every node mounts at the same path, or s3://…",
            )
        )
    elif store and seen["store"] != "read":
        found.append(
            Finding(name, False, f"store: {seen['store']}", "mount or reach the store there, with credentials")
        )
    if not found:
        shared = ", sees the store" if store else ""
        found.append(
            Finding(
                name, True, f"{seen['host']}: {seen['cuda']} GPUs, {seen['memory']:.0f} GiB free, same versions{shared}"
            )
        )
    return found
