"""Connecting to Ray: an existing cluster, or a local one on loopback with a token of its own."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import ray
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.job_config import JobConfig

from ...base.errors import EnvironmentFault
from ...base.scratch import ScratchFolder, short_folder
from . import reaper
from .address import MEND, head_of
from .reaper import OrphanReaper
from .stderr import BackendFilter
from .watchdog import Watchdog

# A head has it by `ray start --head --resources='{"orchestrator_autoscaling": 1}'`.
AUTOSCALING = "orchestrator_autoscaling"
SLOW_START = "timed out during startup"  # in what Ray says of a node that it has waited for


def obey_authentication() -> None:
    """Has Ray look at `RAY_AUTH_MODE` again: it reads that when it is imported, which a user's own
    code may have done before.
    """
    inside: Any = ray._raylet  # compiled, and without types
    wanted = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    if wanted and inside.get_authentication_mode() != inside.AuthenticationMode.TOKEN:
        inside.Config.initialize("")  # as Ray itself does where it turns tokens on by default


class RaySession:
    """A connection to Ray. Closing it undoes what it started itself."""

    def __init__(self, address: str | None):
        """Joins or starts Ray.

        **Arguments:** `address`: None, empty or `local` starts a Ray of our own; `auto` or
        `HOST:PORT` joins a cluster. Where Ray is initialised in this process already, we use that
        one.

        **Raises:** `EnvironmentFault` where that is not possible, within seconds where nothing
        answers.
        """
        self.started_here = address in (None, "", "local")
        self.ray = ray
        self._undo = contextlib.ExitStack()
        if self._is_initialised(address or "local"):
            self.started_here = False  # and stays when we close
        else:
            self._connect_patiently(address)
        for name in ("ray", "ray.tune", "ray.data", "ray.train"):
            logging.getLogger(name).setLevel(logging.ERROR)
        node: Any = ray._private.worker._global_node
        self.watchdog = Watchdog(node.raylet_socket_name, node.gcs_address)
        self._undo.callback(self.watchdog.close)

    @staticmethod
    def _is_initialised(address: str) -> bool:
        """Whether the user's own code has initialised Ray; raises where that is another Ray than
        `address`.
        """
        if not ray.is_initialized():
            return False
        here = str(ray.get_runtime_context().gcs_address)
        if address not in ("local", "auto") and address != here:
            raise EnvironmentFault(
                f"--address: {address!r}: this process has initialised Ray at {here} already; "
                "leave the address out, or call ray.shutdown() first"
            )
        return True

    def _connect_patiently(self, address: str | None) -> None:
        """Starts a local Ray once more where it was too slow.

        Ray waits 30 s for a node, a fixed number. On a busy machine a second start finds its files
        in memory.
        """
        try:
            self._connect(address)
        except EnvironmentFault as fault:
            if not self.started_here or SLOW_START not in str(fault):
                raise
            print("Ray took more than 30 s to start, as on a busy machine; starting it again", file=sys.stderr)
            self._connect(address)

    def _connect(self, address: str | None) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
        if self.started_here:
            # A short path: Ray puts Unix sockets below it, and their names may not exceed 107
            # bytes.
            scratch = ScratchFolder("orc-", short_folder())
            orphan_reaper = OrphanReaper(scratch.path)
            self._undo.callback(orphan_reaper.close)
            self._undo.callback(scratch.close)
            self._set(reaper.MARK, str(scratch.path))
            self._use_private_token(scratch.path)
            options.update(
                # Without an address Ray would join the cluster of RAY_ADDRESS.
                address="local",
                include_dashboard=False,
                _temp_dir=str(scratch.path / "ray"),
                _node_ip_address=_loopback(),
            )
        else:
            options["address"] = head_of(str(address))
        if RAY_JOB_CONFIG_JSON_ENV_VAR not in os.environ:  # a job has the folder that was submitted
            options["job_config"] = _search_paths()
        self._undo.callback(BackendFilter().close)
        self._undo.callback(_shut_down)
        handler = signal.getsignal(signal.SIGTERM)
        obey_authentication()
        try:
            ray.init(**options)
        except Exception as error:
            self.close()
            where = "a local Ray" if self.started_here else f"the Ray cluster at {address}"
            lines = str(error).strip().splitlines()
            raise EnvironmentFault(
                f"{where} cannot be used: {lines[0] if lines else type(error).__name__}; {MEND}"
            ) from error
        # Ray has put its own handler in place of the caller's, and that one aborts the process.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)

    def _use_private_token(self, folder: Path) -> None:
        """Gives the local cluster a token that only this user can read, unless the user set
        authentication up.
        """
        if "RAY_AUTH_MODE" in os.environ or "RAY_AUTH_TOKEN" in os.environ:
            return
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(_process_token())
        for name, value in (("RAY_AUTH_MODE", "token"), ("RAY_AUTH_TOKEN_PATH", str(token))):
            self._set(name, value)

    def _set(self, name: str, value: str) -> None:
        """Sets a variable until the session is closed."""
        self._undo.callback(_restore, name, os.environ.get(name))
        os.environ[name] = value

    def cpus(self) -> float:
        """Returns the CPUs of the whole cluster."""
        return float(self.ray.cluster_resources().get("CPU", 0.0))

    def gpus(self) -> float:
        """Returns the GPUs of the whole cluster."""
        return float(self.ray.cluster_resources().get("GPU", 0.0))

    def node_resources(self) -> list[dict[str, float]]:
        """Returns what each node that is alive has in all, as Ray names it."""
        return [dict(node["Resources"]) for node in self.ray.nodes() if node["Alive"]]

    def may_grow(self) -> bool:
        """Whether an autoscaler may add nodes: the head says so by a resource of its own, as in the
        files of `clusters/`.

        Ray 2.60 itself does not tell: its own look-up of node groups reads what nothing writes.
        """
        return any(AUTOSCALING in node for node in self.node_resources())

    def nodes(self) -> int:
        """Returns how many nodes are alive."""
        return sum(1 for node in self.ray.nodes() if node["Alive"])

    def close(self) -> None:
        """Disconnects, and stops Ray where it was started here. A Ray of the user's own stays as it
        is.
        """
        self._undo.close()


def _shut_down() -> None:
    with contextlib.suppress(Exception):
        ray.shutdown()


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _search_paths() -> JobConfig:
    """Returns where workers look for code.

    Ray would put our working folder first, where a folder `attack/` of the user's hides our
    package. `WorkerSetup` appends it instead. Only a checkout that is not installed must be named
    here.
    """
    root = Path(__file__).resolve().parents[3]
    config = JobConfig(_py_driver_sys_path=[] if root.name == "site-packages" else [str(root)])
    config._client_job = True  # Ray's only way not to add the working folder
    return config


@functools.cache
def _process_token() -> str:
    """Returns this process's token: Ray reads a token once and keeps it, so that a second cluster
    needs the same one.
    """
    return secrets.token_hex(32)


def _loopback() -> str:
    """Returns an address of this machine alone. 127.0.0.1 would be replaced by Ray with the outward
    address.
    """
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        return "127.0.0.2"
    return "127.0.0.1"
