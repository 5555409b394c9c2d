"""Connecting to Ray: an existing cluster, or a local one on loopback with a token of its own."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import IO, Any

from ...base.errors import EnvironmentFault
from ...base.scratch import ScratchFolder, short_folder
from . import guardian
from .guardian import Guardian
from .lifeline import Lifeline

# Read by Ray when it is imported or started; set before either happens. A user's own setting wins.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # Else the first driver waits for workers that Ray starts ahead of time, and for ever where one of them dies.
    "RAY_prestart_worker_first_driver": "0",
}


AUTOSCALING = "orchestrator_autoscaling"  # `ray start --head --resources='{"orchestrator_autoscaling": 1}'`


def prepare_environment() -> None:
    """Sets what Ray reads when it is imported or started; a user's own setting wins."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def obey_authentication() -> None:
    """Has Ray look at `RAY_AUTH_MODE` again: it reads that when it is imported, which a user's own code may have done before."""
    import ray

    inside: Any = ray._raylet  # compiled, and without types
    wanted = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    if wanted and inside.get_authentication_mode() != inside.AuthenticationMode.TOKEN:
        inside.Config.initialize("")  # as Ray itself does where it turns tokens on by default


class BackendFilter:
    """Keeps Ray's C++ log lines, which no Python logger reaches, off the user's standard error.

    Python's own writes go straight to a copy of the descriptor; only what libraries write to descriptor 2 is looked at,
    and everything that is not such a log line is passed on.
    """

    _LOG_LINE = re.compile(rb"^\[\d{4}-\d\d-\d\d [\d:,]+ [A-Z] \d+ \d+\] .*\.cc:\d+: ")

    def __init__(self) -> None:
        self._python_stderr = sys.stderr
        self._original = os.dup(2)
        reader, writer = os.pipe()
        sys.stderr.flush()
        os.dup2(writer, 2)
        os.close(writer)
        self._direct: IO[str] | None = None
        if sys.stderr is sys.__stderr__:
            # Never closed, nor is the copy: a logger that was set up meanwhile may write to it until the end.
            self._direct = os.fdopen(
                self._original, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
            )
            sys.stderr = self._direct
        self._thread = threading.Thread(target=self._forward, args=(reader,), daemon=True, name="stderr")
        self._thread.start()

    def _forward(self, reader: int) -> None:
        with os.fdopen(reader, "rb") as lines:
            for line in lines:
                if not self._LOG_LINE.match(line):
                    os.write(self._original, line)

    def close(self) -> None:
        """Puts the descriptor back."""
        os.dup2(self._original, 2)  # closes the pipe's last writer here, which ends the thread
        if self._direct is not None and sys.stderr is self._direct:
            sys.stderr = self._python_stderr
        self._thread.join(timeout=1)


class RaySession:
    """A connection to Ray that undoes, when closed, what it started itself."""

    def __init__(self, address: str | None):
        """**Arguments:** `address`: None or `local` starts a Ray of its own; `auto` or `HOST:PORT` joins a cluster."""
        if (address or "").startswith("ray://"):
            # A client has no raylet of its own: nothing would tell it that the cluster is gone.
            raise EnvironmentFault(
                f"--address: {address!r}: Ray Client is not used; give HOST:PORT, or `orchestrator submit`"
            )
        prepare_environment()
        self.started_here = address in (None, "local")
        self._scratch: ScratchFolder | None = None
        self._guardian: Guardian | None = None
        self._restore: dict[str, str | None] = {}
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
        if self.started_here:
            # A short path: Ray puts Unix sockets below it, and their names may not exceed 107 bytes.
            self._scratch = ScratchFolder("orc-", short_folder())
            self._guardian = Guardian(self._scratch.path)
            self._set(guardian.MARK, str(self._scratch.path))
            self._use_private_token(self._scratch.path)
            options.update(
                include_dashboard=False, _temp_dir=str(self._scratch.path / "ray"), _node_ip_address=_loopback()
            )
        else:
            options["address"] = address
        self._filter = BackendFilter()
        handler = signal.getsignal(signal.SIGTERM)
        import ray

        obey_authentication()
        try:
            ray.init(**options)
        except Exception as error:
            self.close()
            where = "a local Ray" if self.started_here else f"the Ray cluster at {address}"
            lines = str(error).strip().splitlines()
            raise EnvironmentFault(
                f"{where} cannot be used: {lines[0] if lines else type(error).__name__}; try `orchestrator doctor`, or --address local"
            ) from error
        # Ray has put its own handler in place of the caller's, and that one aborts the process.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        for name in ("ray", "ray.tune", "ray.data", "ray.train"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.ray = ray
        node: Any = ray._private.worker._global_node
        self.lifeline = Lifeline(node.raylet_socket_name, node.gcs_address)

    def _use_private_token(self, folder: Path) -> None:
        """Gives the local cluster a token that only this user can read, unless the user set authentication up."""
        if "RAY_AUTH_MODE" in os.environ or "RAY_AUTH_TOKEN" in os.environ:
            return
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(_process_token())
        for name, value in (("RAY_AUTH_MODE", "token"), ("RAY_AUTH_TOKEN_PATH", str(token))):
            self._set(name, value)

    def _set(self, name: str, value: str) -> None:
        """Sets a variable until the session is closed."""
        self._restore[name] = os.environ.get(name)
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
        """Whether an autoscaler may add nodes: the head says so by a resource of its own, as in the files of `clusters/`.

        Ray 2.60 itself does not tell: its own look-up of node groups reads what nothing writes.
        """
        return any(AUTOSCALING in node for node in self.node_resources())

    def nodes(self) -> int:
        """Returns how many nodes are alive."""
        return sum(1 for node in self.ray.nodes() if node["Alive"])

    def close(self) -> None:
        """Disconnects, and stops Ray where it was started here."""
        ray = getattr(self, "ray", None)
        if ray is not None and ray.is_initialized():
            with contextlib.suppress(Exception):
                ray.shutdown()
        lifeline = getattr(self, "lifeline", None)
        if lifeline is not None:
            lifeline.close()
        for name, value in self._restore.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._filter.close()
        if self._scratch is not None:
            self._scratch.close()
        if self._guardian is not None:
            self._guardian.close()


@functools.cache
def _process_token() -> str:
    """Returns this process's token: Ray reads a token once and keeps it, so that a second cluster needs the same one."""
    return secrets.token_hex(32)


def _loopback() -> str:
    """Returns an address of this machine alone. 127.0.0.1 would be replaced by Ray with the outward address."""
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        return "127.0.0.2"
    return "127.0.0.1"
