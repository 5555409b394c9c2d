"""Reports written once and looked at by many tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.figures import drawing
from orchestrator.report.write import write_report

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
def stood_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on 40 settings, with 60 samples that stand out and who else was hurt."""
    results, curves = build.many(40)
    build.hurt(results)
    curves["samples"] = build.samples(results)
    folder = build.write(tmp_path_factory.mktemp("stood_out"), results, curves)
    write_report(folder)
    return folder


@pytest.fixture(scope="session")
def looked_over(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small report with every section there is."""
    results, curves = build.sweep(lira=True)
    build.hurt(results, 3)
    curves["samples"] = build.samples(results)[:5]
    folder = build.write(tmp_path_factory.mktemp("looked_over"), results, {"samples": curves["samples"]})
    write_report(folder)
    return folder


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on 202 rows."""
    folder = build.write(tmp_path_factory.mktemp("crowd"), *build.many(200))
    write_report(folder)
    return folder
