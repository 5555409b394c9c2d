"""Reports written once and looked at by many tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report import write_report
from orchestrator.report.figures import drawing

from . import build


@pytest.fixture(autouse=True, scope="session")
def coarse_png() -> Iterator[None]:
    """PNG files at 50 dpi: their bytes are not looked at, and 300 dpi is most of the time that a report takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "PNG_DPI", 50)
        yield


@pytest.fixture(scope="session")
def sweep() -> tuple[dict[str, Any], dict[str, Any]]:
    """A sweep with two attacks and every verdict."""
    return build.sweep(lira=True)


@pytest.fixture(scope="session")
def written(sweep: tuple[dict[str, Any], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on `sweep`."""
    folder = build.write(tmp_path_factory.mktemp("sweep"), *sweep)
    write_report(folder)
    return folder


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on 202 rows."""
    folder = build.write(tmp_path_factory.mktemp("crowd"), *build.many(200))
    write_report(folder)
    return folder
