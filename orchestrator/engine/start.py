"""The door to Ray for those that may not need it. Importing Ray takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attack.audit.runner import InProcess
    from attack.outputs.sources import ParquetFiles

    from .attacker.runner import OnRay
    from .ray.session import RaySession


def ray_session(address: str | None) -> RaySession:
    """Returns a connection to Ray.

    **Arguments and errors:** as of `orchestrator.engine.ray.session.RaySession`.
    """
    from .ray.session import RaySession

    return RaySession(address)


def attacks_on_ray(
    session: RaySession,
    files: ParquetFiles,
    spool: Path | None,
    memory_per_worker: float | None,
    rows_per_worker: int | None,
    local: InProcess,
) -> OnRay:
    """Returns what runs an audit's attacks on the cluster of `session`.

    **Arguments:** as of `orchestrator.engine.attacker.runner.OnRay`.
    """
    from .attacker.runner import OnRay

    return OnRay.of(session.node_resources(), files, spool, memory_per_worker, rows_per_worker, local)
