"""What workers of the distributed attacker read: fragments of files, on disk and on S3, and the spool that replays them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attack import XGBoostAttack, auc
from attack.attacks.spool import Spool, prepared
from attack.outputs.fragments import Fragment, deal, fragments, label_classes_of, models_of, pieces, softmax_width
from attack.outputs.table import rows_where

ATTACK = XGBoostAttack(max_depth=4, eta=0.1, rounds=60)


def written(table: pa.Table, folder: Path, rows: int) -> list[Path]:
    paths = []
    for role in ("original", "retrained"):
        path = folder / f"{role}.parquet"
        pq.write_table(rows_where(table, role=role), path, row_group_size=rows)
        paths.append(path)
    return paths


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


def test_models_are_read_from_footers_or_from_their_columns(
    table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["role", "model_id", "fold"]
    expected = table.select(names).group_by(names).aggregate([]).sort_by([(name, "ascending") for name in names])
    assert len(expected) == 40
    mixed = written(table, tmp_path, 700)
    assert models_of([str(p) for p in mixed]).equals(expected.select(names))
    assert len(models_of([str(p) for p in mixed], roles=("original",))) == 20
    alone = written(table, tmp_path, 300)  # a row group a model
    monkeypatch.setattr("attack.outputs.fragments._read_triples", lambda *_: pytest.fail("the footers say it all"))
    assert models_of([str(p) for p in alone]).equals(expected.select(names))
    pq.write_table(table.drop_columns(["model_id"]), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="model_id: the column is missing"):
        models_of([str(tmp_path / "x.parquet")])


def test_test_fold_row_groups_are_not_even_opened(table: pa.Table, tmp_path: Path) -> None:
    paths = [str(p) for p in written(table, tmp_path, 300)]
    assert len(fragments(paths)) == 40
    assert len(fragments(paths, roles=("original",), folds=("train", "validation"))) == 14
    pq.write_table(table.drop_columns(["fold"]), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="fold: the column is missing"):
        fragments([str(tmp_path / "x.parquet")], folds=("train",))


def test_fragments_are_read_from_s3_as_from_disk(table: pa.Table, tmp_path: Path, s3: Any) -> None:
    local = written(table, tmp_path, 700)
    remote, store = s3(local, "fragments")
    assert label_classes_of(remote, store) == softmax_width(remote, (), store) == 4
    for mine, theirs in zip(fragments([str(p) for p in local]), fragments(remote, store), strict=True):
        here, there = (pa.concat_tables(pieces(part, fs, None)) for part, fs in ((mine, None), (theirs, store)))
        assert here.equals(there)


def spooled(table: pa.Table, folder: Path, label: str = "one_hot") -> Spool:
    folder.mkdir(exist_ok=True)
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


@pytest.mark.parametrize("external", [False, True])
def test_cuts_found_on_a_part_of_the_rows_bin_all_of_them(table: pa.Table, tmp_path: Path, external: bool) -> None:
    import xgboost

    spool = spooled(table, tmp_path)
    few = spool.matrix("train", external, None, 1, 0.3)
    assert 0.2 * spool.rows["train"] < few.num_row() < 0.4 * spool.rows["train"]
    whole, found = spool.matrix("train", False, None, 1), spool.matrix("train", external, few, 1)
    assert found.num_row() == whole.num_row() == spool.rows["train"]
    assert np.array_equal(found.get_label(), whole.get_label())
    (ends, cuts), (their_ends, theirs) = few.get_quantile_cut(), found.get_quantile_cut()
    assert np.array_equal(ends, their_ends)
    assert np.array_equal(cuts, theirs)
    assert not np.array_equal(cuts, whole.get_quantile_cut()[1]), "they are the sample's own"
    truth, areas = found.get_label() > 0, []
    for matrix in (whole, found):
        scores = xgboost.train({**ATTACK.parameters(), "max_bin": 256, "nthread": 1}, matrix, 10).predict(matrix)
        areas.append(auc(truth, scores.astype(np.float64)))
    assert abs(areas[0] - areas[1]) < 0.01
    assert areas[0] > 0.55


def test_rows_that_cuts_are_found_on_have_every_class_and_differ_by_worker(table: pa.Table, tmp_path: Path) -> None:
    """XGBoost joins classes that it does not see: here none of 4 classes would be drawn otherwise."""
    few = []
    for seed in (0, 1):
        spool = spooled(table, tmp_path / str(seed))
        spool.seed = seed
        features, again = (np.concatenate([f for f, _ in spool.batches("train", share)]) for share in (1e-9, 1e-9))
        assert np.array_equal(features, again)
        assert np.array_equal(features[:, 4:].sum(axis=0), np.ones(4))
        few.append(np.concatenate([f for f, _ in spool.batches("train", 0.1)]))
    assert 0.05 < len(few[0]) / spool.rows["train"] < 0.15
    assert not np.array_equal(few[0], few[1])


def test_a_worker_without_rows_of_a_fold_has_an_empty_matrix(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 4, 4, "one_hot")
    spool.fill(iter([]))
    [(features, targets)] = spool.batches("validation")
    assert features.shape == (0, 8)
    assert targets.shape == (0,)
    assert spool.bytes_in_memory() == 0
