"""The door to Ray for those that may not need it. Importing Ray takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ray.session import RaySession


def ray_session(address: str | None) -> RaySession:
    """Returns a connection to Ray.

    **Arguments and errors:** as of `orchestrator.engine.ray.session.RaySession`.
    """
    from .ray.session import RaySession

    return RaySession(address)
