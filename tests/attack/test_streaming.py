"""The distributed attacker: the same answer as in one process, whatever dies on the way, on a real Ray with two workers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attack import XGBoostAttack, outputs_table
from attack.fragments import Fragment, deal, fragments, label_classes_of, pieces, softmax_width
from attack.outputs import rows_where
from attack.spool import Spool, prepared
from attack.xgboost_attack import FittedXGBoost
from orchestrator.streaming_attack import choose_path, fit_distributed, score_distributed

from .build import area, pool

ATTACK = XGBoostAttack(max_depth=4, eta=0.1, rounds=60)
TWO = {"CPU": 0.5}


def written(table: pa.Table, folder: Path, rows: int) -> list[Path]:
    paths = []
    for role in ("original", "retrained"):
        path = folder / f"{role}.parquet"
        pq.write_table(rows_where(table, role=role), path, row_group_size=rows)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return pool(models=20, samples=300, shift=1.0, folds=(0.5, 0.7), difficulty=0.5, references=False)


def test_the_path_follows_the_threshold() -> None:
    assert choose_path(99, 100) == "in_process"
    assert choose_path(100, 100) == "distributed"


def test_fragments_hold_every_wanted_row_once(table: pa.Table, tmp_path: Path) -> None:
    paths = [str(p) for p in written(table, tmp_path, 700)]
    wanted = rows_where(table, fold=("train", "validation"))
    parts = fragments(paths, roles=("original", "retrained"), folds=("train", "validation"), least=50)
    assert len(parts) >= 50
    read = pa.concat_tables(
        rows_where(p, fold=("train", "validation")) for part in parts for p in pieces(part, None, None)
    )
    key = [("model_id", "ascending"), ("sample_id", "ascending")]
    assert read.sort_by(key).equals(wanted.sort_by(key))
    shards = deal(parts, 3)
    assert sorted((p for shard in shards for p in shard), key=repr) == sorted(parts, key=repr)
    assert all(isinstance(p, Fragment) for p in parts)
    assert label_classes_of(paths) == 4
    assert softmax_width(paths) == 4
    assert softmax_width(paths, (0, 2)) == 2


def test_test_fold_row_groups_are_not_even_opened(table: pa.Table, tmp_path: Path) -> None:
    paths = [str(p) for p in written(table, tmp_path, 300)]
    assert len(fragments(paths)) == 40
    assert len(fragments(paths, roles=("original",), folds=("train", "validation"))) == 14
    pq.write_table(table.drop_columns(["fold"]), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="fold: the column is missing"):
        fragments([str(tmp_path / "x.parquet")], folds=("train",))


def test_fragments_are_read_from_s3_as_from_disk(
    table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_module = pytest.importorskip("moto.server")
    import boto3
    from pyarrow.fs import S3FileSystem

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="outputs")
        local = written(table, tmp_path, 700)
        for path in local:
            client.upload_file(str(path), "outputs", path.name)
        remote = [f"outputs/{path.name}" for path in local]
        store = S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", region="us-east-1")
        assert label_classes_of(remote, store) == softmax_width(remote, (), store) == 4
        for mine, theirs in zip(fragments([str(p) for p in local]), fragments(remote, store), strict=True):
            here, there = (pa.concat_tables(pieces(part, fs, None)) for part, fs in ((mine, None), (theirs, store)))
            assert here.equals(there)
    finally:
        server.stop()


def spooled(table: pa.Table, folder: Path, label: str = "one_hot") -> Spool:
    spool = Spool(folder, 4, 4, label)
    rows = rows_where(table, fold=("train", "validation"), role=("original", "retrained"))
    spool.fill(iter([prepared(rows.slice(start, 999), ()) for start in range(0, len(rows), 999)]))
    return spool


def test_a_spool_replays_the_features_that_one_process_builds(table: pa.Table, tmp_path: Path) -> None:
    spool = spooled(table, tmp_path)
    train = rows_where(table, fold="train")
    features = np.concatenate([f for f, _ in spool.batches("train")])
    assert np.array_equal(features, ATTACK.features(train, 4))
    assert np.array_equal(spool.targets("train"), np.asarray(train["role"].to_pylist()) == "original")
    assert np.array_equal(np.concatenate([f for f, _ in spool.batches("train")]), features)
    assert np.array_equal(spool.lowest, features[:, :4].min(axis=0))


@pytest.mark.parametrize("label", ["one_hot", "categorical"])
def test_paging_from_disk_changes_nothing(table: pa.Table, tmp_path: Path, label: str) -> None:
    import xgboost

    spool = spooled(table, tmp_path, label)
    scores = []
    for external in (False, True):
        train = spool.matrix("train", external, None, 1)
        validation = spool.matrix("validation", external, train, 1)
        booster = xgboost.train({**ATTACK.parameters(), "max_bin": 256, "nthread": 1}, train, 10)
        scores.append(booster.predict(validation))
    assert np.array_equal(scores[0], scores[1])
    assert len(np.unique(scores[0])) > 10


def same(a: FittedXGBoost, b: FittedXGBoost) -> bool:
    return bytes(a.booster.save_raw("json")) == bytes(b.booster.save_raw("json"))


@dataclass(frozen=True)
class DyingAttack(XGBoostAttack):
    """Kills its worker the first time that training starts there."""

    marker: str = ""

    def parameters(self) -> dict[str, Any]:
        if self.marker and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), 9)
        return super().parameters()


def test_a_worker_without_rows_of_a_fold_has_an_empty_matrix(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 4, 4, "one_hot")
    spool.fill(iter([]))
    [(features, targets)] = spool.batches("validation")
    assert features.shape == (0, 8)
    assert targets.shape == (0,)
    assert spool.bytes_in_memory() == 0


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_distributed_and_in_process_agree_also_where_a_worker_dies(
    table: pa.Table, tmp_path: Path, ray_session: None
) -> None:
    paths = written(table, tmp_path, 1000)
    attack = DyingAttack(max_depth=4, eta=0.1, rounds=60, marker=str(tmp_path / "died"))
    died = fit_distributed(paths, attack, num_workers=2, resources_per_worker=TWO)
    assert (tmp_path / "died").exists()
    # The second time nothing dies, and everything is paged from disk.
    calm = fit_distributed(paths, attack, num_workers=2, resources_per_worker=TWO, memory_per_worker=1.0)
    assert same(died, calm)
    assert (died.threshold, died.validation_f1) == (calm.threshold, calm.validation_f1)
    assert died.notes == []
    assert calm.notes == ["2 of 2 workers paged their data from disk"]
    alone = ATTACK.fit(table)
    areas = [area(table, fitted.score(table), "original") for fitted in (died, alone)]
    assert areas[1] > 0.65
    assert abs(areas[0] - areas[1]) < 0.005
    assert abs(died.validation_f1 - alone.validation_f1) < 0.02

    rows = score_distributed(paths, alone, tmp_path / "scores", folds=("test",))
    test = rows_where(table, fold="test")
    found = pq.read_table(tmp_path / "scores")
    assert rows == len(found) == len(test)
    key = [("model_id", "ascending"), ("sample_id", "ascending")]
    assert np.allclose(found.sort_by(key)["score"].to_numpy(), alone.score(test.sort_by(key)), atol=1e-6)


@pytest.mark.ray
def test_what_cannot_run_is_refused_at_once_and_a_workers_error_is_told(tmp_path: Path, ray_session: None) -> None:
    import ray

    cpus = ray.cluster_resources()["CPU"]
    paths = written(pool(models=4, samples=10), tmp_path, 1000)
    with pytest.raises(ValueError, match="leave 0 of"):
        fit_distributed(paths, ATTACK, num_workers=2, resources_per_worker={"CPU": cpus / 2})
    broken = outputs_table("m", "original", "", "{}", "train", np.arange(3), np.zeros(3, int), np.full((3, 4), np.nan))
    pq.write_table(broken, tmp_path / "broken.parquet")
    with pytest.raises(RuntimeError, match="not finite"):
        fit_distributed(
            [*paths, tmp_path / "broken.parquet"], ATTACK, num_workers=2, resources_per_worker=TWO, max_failures=0
        )
