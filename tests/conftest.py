"""Fixtures and rules for every test. Nothing here writes outside temporary folders."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from xdist.scheduler import LoadGroupScheduling

    from orchestrator.engine.ray.session import RaySession

# One thread a process: results repeat to the bit, and parallel tests do not fight for cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray lowers the priority of its workers. Beside busy tests they would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")

# A busy machine is no fault of the code: no property fails because it took long.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# A test that uses one of these fixtures, directly or through another one, gets the marker.
MARKER_OF = {"ray_session": "ray", "cluster": "ray", "head": "ray", "server": "mlflow_server", "browser": "browser"}
# What takes seconds to make: a whole run, a report with all figures, a database of MLflow.
RUNS = ("tiny_run", "finished", "place", "lab", "played", "blank_mlflow")
REPORTS = ("written", "crowd", "stood_out", "looked_over")
MARKER_OF |= dict.fromkeys((*RUNS, *REPORTS), "medium")
# The tests of a group share one process and so one Ray or one server.
GROUPS = ("ray", "mlflow_server", "browser")


def group_of(item: pytest.Item) -> str | None:
    """Returns the group of a test, or None where it can run beside any other."""
    if "blank_mlflow" in getattr(item, "fixturenames", ()):
        return "mlflow"  # making the database takes longer than a test with it
    return next((name for name in GROUPS if item.get_closest_marker(name)), None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks tests by the fixtures that they use, and keeps each group in one process under pytest-xdist."""
    for item in items:
        for name in getattr(item, "fixturenames", ()):
            if name in MARKER_OF:
                item.add_marker(MARKER_OF[name])
        group = group_of(item)
        if group and config.pluginmanager.hasplugin("xdist"):
            item.add_marker(pytest.mark.xdist_group(group))
    # Groups first, so that no worker is left alone with one. The shared Ray is begun and ended once.
    items.sort(key=lambda item: (group_of(item) is None, not _shares_ray(item)))


def pytest_collection_finish() -> None:
    """Keeps what modules and tests are, millions of objects, out of garbage collections."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadGroupScheduling | None:
    """Hands out tests by group, and what has no group by file, so that fixtures of a module are made once."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling

    class GroupsAndFiles(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            scope = super()._split_scope(nodeid)
            return scope.partition("::")[0]

    return GroupsAndFiles(config, log)


@pytest.fixture(autouse=True, scope="session")
def _no_wait_for_the_disk() -> Iterator[None]:
    """What tests of this process write need not outlive a power cut.

    A tiny run waits some 300 times for a disk that two workers share. Commands in processes of
    their own still wait.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def _shares_ray(item: pytest.Item) -> bool:
    return "ray_session" in getattr(item, "fixturenames", ())


class SharedRay:
    """The local Ray that tests with the fixture `ray_session` share."""

    def __init__(self) -> None:
        self._session: RaySession | None = None

    def begin(self) -> None:
        from orchestrator.engine.ray.session import RaySession

        if self._session is None:
            self._session = RaySession("local")

    def end(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


SHARED_RAY = SharedRay()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ends the shared Ray before the first test that does not share it, and before its fixtures.

    In a process that has joined a Ray, every command would join it, too. What a fixture starts would
    have its mark, and would be ended with it.
    """
    if not _shares_ray(item):
        SHARED_RAY.end()


def pytest_sessionfinish() -> None:
    SHARED_RAY.end()


@pytest.fixture
def ray_session() -> None:
    """A real Ray on loopback with a token of its own, joined by this process and shared with other tests."""
    SHARED_RAY.begin()


@pytest.fixture(autouse=True)
def _no_ray_without_its_marker(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that starts Ray in this process and lacks the marker `ray`."""
    yield
    if request.node.get_closest_marker("ray") is None:
        assert not _ray_runs(), "this test starts Ray: mark it with `ray`"


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of the S3 server that all tests of a process share. Each test has its own bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def unlearn_data() -> Path:
    """The folder of real images; tests that want it skip, and say so, without it."""
    folder = os.environ.get("UNLEARN_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("UNLEARN_DATA does not name a folder of real images")
    return Path(folder)


@pytest.fixture(scope="session")
def browser() -> str:
    """The path of a Chromium; tests that want one skip, and say so, without it."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium found on PATH: the page is not looked at in a browser")
