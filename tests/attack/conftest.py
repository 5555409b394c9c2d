"""A real Ray on loopback with a token of its own, shared by the tests that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    from orchestrator.engine.ray.session import RaySession

    session = RaySession("local")
    yield
    session.close()
