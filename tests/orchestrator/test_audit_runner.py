"""Where an audit runs its shadow attack: in this process, or on Ray, and where workers spool."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import orchestrator.audit_runner
import orchestrator.engine.session
from attack import XGBoostAttack, outputs_table
from attack.check import Examination
from attack.scoring import Runner
from attack.sources import ParquetFiles
from orchestrator.commands import audit


class Session:
    """A cluster of two cores that nothing is sent to."""

    def __init__(self, address: str | None) -> None: ...

    def cpus(self) -> float:
        return 2.0

    def nodes(self) -> int:
        return 1

    def close(self) -> None: ...


def outputs(path: Path, classes: int) -> ParquetFiles:
    """Writes 40 rows."""
    logits, labels = np.random.default_rng(0).normal(size=(20, classes)), np.arange(20) % classes
    tables = [
        outputs_table(role, role, "", "{}", "test", np.arange(20), labels, logits) for role in ("original", "retrained")
    ]
    pq.write_table(pa.concat_tables(tables), path)
    return ParquetFiles((str(path),))


@contextlib.contextmanager
def chosen(source: ParquetFiles, folder: Path, *options: str) -> Iterator[tuple[Runner, list[str]]]:
    """Yields what the command runs the shadow attack with."""
    survey = Examination.of(source).survey
    assert survey is not None
    parser = argparse.ArgumentParser()
    audit.arguments(parser)
    args = parser.parse_args([source.paths[0], "--output", str(folder / "out"), *options])
    with audit._runner(args, source, ["xgboost"], survey.feature_values()) as found:
        yield found


@pytest.mark.parametrize(
    ("classes", "limit", "on_ray"), [(10, 41, False), (10, 40, True), (100, 400, True), (100, 401, False)]
)
def test_what_goes_to_ray_is_decided_by_values_not_by_rows_alone(
    classes: int, limit: int, on_ray: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of 100 classes hold ten times what those of 10 do: 40 of them are as many as 400."""
    monkeypatch.setattr(orchestrator.engine.session, "RaySession", Session)
    source = outputs(tmp_path / "outputs.parquet", classes)
    with chosen(source, tmp_path, "--distributed-rows", str(limit)) as (runner, notes):
        assert isinstance(runner, orchestrator.audit_runner.OnRay) is on_ray
        assert bool(notes) is on_ray


@pytest.mark.parametrize("given", [True, False])
def test_workers_spool_where_they_are_told_to(given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An absolute path: workers know nothing of the current folder. Not given, each node's temporary folder is taken."""
    monkeypatch.setattr(orchestrator.engine.session, "RaySession", Session)
    monkeypatch.chdir(tmp_path)
    asked: list[dict[str, Any]] = []

    def fit(paths: Any, attacks: Any, **options: Any) -> list[Any]:
        asked.append(options)
        return []

    monkeypatch.setattr(orchestrator.audit_runner, "fit_all_distributed", fit)
    source = outputs(tmp_path / "outputs.parquet", 10)
    options = ["--scratch", "big/disk"] if given else []
    measured = Examination.of(source).measured()
    with chosen(source, tmp_path, "--distributed-rows", "1", *options) as (runner, _):
        runner.fit([XGBoostAttack()], source, measured, measured.where())
    assert asked[0]["scratch_dir"] == (tmp_path / "big/disk" if given else None)
