"""The address of a Ray cluster, tried before Ray is: Ray itself waits 14 minutes for a head that is
not there.
"""

from __future__ import annotations

import os
import socket
import time

from ray._private import services

from ...base.errors import EnvironmentFault

PROBE_SECONDS = 10.0  # a head that is just starting may need some
PAUSE_SECONDS = 0.5
MEND = "try `orchestrator doctor`, or --address local"


def head_of(address: str) -> str:
    """Returns HOST:PORT of the head that `address` names, after it answered.

    **Arguments:** `address`: `HOST:PORT`, or `auto` for `RAY_ADDRESS` or the cluster on this
    machine.

    **Raises:** `EnvironmentFault` where the address is none, or nothing answers there for
    `PROBE_SECONDS`.
    """
    if address.startswith("ray://"):
        # A client has no raylet of its own: nothing would tell it that the cluster is gone.
        raise EnvironmentFault(
            f"--address: {address!r}: Ray Client is not used; give HOST:PORT, or `orchestrator submit`"
        )
    from_variable = address in ("auto", os.environ.get("RAY_ADDRESS")) and bool(os.environ.get("RAY_ADDRESS"))
    name = "RAY_ADDRESS" if from_variable else "--address"
    try:
        found = services.canonicalize_bootstrap_address(address)
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise EnvironmentFault(
            f"{name}: {address!r}: {lines[0] if lines else type(error).__name__}; give auto, local or HOST:PORT"
        ) from None
    if found is None or found == "auto":
        raise EnvironmentFault(f"{name}: {address!r}: no Ray cluster runs on this machine; {MEND}")
    host, _, port = found.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 2**16:
        raise EnvironmentFault(f"{name}: {address!r}: not an address; give auto, local or HOST:PORT")
    problem = _probe(host.strip("[]"), int(port))
    if problem:
        raise EnvironmentFault(f"{name}: {address!r}: no Ray cluster answers there ({problem}); {MEND}")
    return found


def _probe(host: str, port: int) -> str:
    """Returns why nothing can be reached; empty where something answers."""
    deadline = time.monotonic() + PROBE_SECONDS
    while True:
        left = deadline - time.monotonic()
        try:
            socket.create_connection((host, port), timeout=max(0.1, left)).close()
            return ""
        except OSError as error:
            if time.monotonic() + PAUSE_SECONDS > deadline:
                return (error.strerror or str(error)).lower()
        time.sleep(PAUSE_SECONDS)
