"""Properties of the streamed shadow attack, from fragments of Parquet files to a worker's spool and back to scores.

As `checks`: called on the code as it is, and on code with a defect planted in it. No Ray is needed: what it carries from one
step to the next is handed on here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from attack import XGBoostAttack
from attack.attacks.spool import Spool
from attack.attacks.xgboost import membership
from attack.audit.check import Examination
from attack.audit.runner import Coded, by_model
from attack.outputs.fragments import fragments, softmax_width
from attack.outputs.sources import ParquetFiles
from attack.outputs.table import rows_where
from orchestrator.engine.attacker import fit as streaming_attack
from orchestrator.engine.attacker import scores as streaming_scores
from orchestrator.engine.attacker import worker as streaming_worker

from .build import pool, shuffled

ATTACK = XGBoostAttack(max_depth=3, eta=0.3, rounds=15)
CLASSES = 4
WORKERS = 2


@contextmanager
def written(table: pa.Table, rows: int) -> Iterator[str]:
    """The table in a file of row groups of so many rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/outputs.parquet"
        pq.write_table(table, path, row_group_size=rows)
        yield path


def spooled(path: str, rank: int, folder: Path) -> dict[str, np.ndarray]:
    """What one of the workers trains on: features beside the target, by fold, in its order."""
    folder.mkdir(exist_ok=True)
    prepare = streaming_worker.Prepare(ATTACK.forget_classes, None)
    shard = streaming_attack.shards_of([path], WORKERS)[rank]
    batches = (rows for part in shard for rows in prepare(pa.Table.from_pylist([vars(part)])))
    spool = Spool(folder, softmax_width([path]), CLASSES, ATTACK.label)
    spool.fill(batches)
    found = {}
    for fold in ("train", "validation"):
        pieces = list(spool.batches(fold))
        features, targets = (np.concatenate([piece[side] for piece in pieces]) for side in (0, 1))
        found[fold] = np.column_stack([features, targets])
    return found


def expected(rows: pa.Table) -> np.ndarray:
    return np.column_stack([ATTACK.features(rows, CLASSES), membership(rows)])


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T)]


def workers_train_on_every_row_once() -> None:
    """Together what one process trains on: each row with its own target, in its own fold, once."""
    table = shuffled(pool(models=8, samples=30, unlearned={"pgu": 0.5}))
    with written(table, 97) as path, tempfile.TemporaryDirectory() as folder:
        found = [spooled(path, rank, Path(folder) / str(rank)) for rank in range(WORKERS)]
    for fold in ("train", "validation"):
        theirs = in_order(expected(rows_where(table, fold=fold, role=("original", "retrained"))))
        mine = in_order(np.concatenate([worker[fold] for worker in found]))
        assert mine.shape == theirs.shape
        assert np.array_equal(mine, theirs)


def workers_take_rows_in_the_files_order() -> None:
    """Else a worker that begins again after a failure would train on another order, and find another attacker."""
    table = pool(models=8, samples=30, references=False)
    with written(table, 60) as path, tempfile.TemporaryDirectory() as folder:
        found = [spooled(path, rank, Path(folder) / str(rank)) for rank in range(WORKERS)]
    wanted = [table.slice(start, 60) for start in range(0, len(table), 60)]
    wanted = [rows for rows in wanted if len(rows_where(rows, fold=("train", "validation")))]
    for rank, worker in enumerate(found):
        mine = pa.concat_tables(wanted[rank::WORKERS])
        for fold, rows in worker.items():
            assert np.array_equal(rows, expected(rows_where(mine, fold=fold)))


def scores_come_back_to_their_rows() -> None:
    """Every score to its model and its sample. Row groups of two whole models: what goes to the wrong one leaves no hole."""
    table = pool(models=8, samples=12, unlearned={"pgu": 0.5}, references=False)
    fitted = ATTACK.fit(table)
    with written(table, 24) as path:
        source = ParquetFiles((path,))
        measured = Examination.of(source).measured()
        models = measured.where(fold="test")
        codes = {measured.models[m]: int(m) for m in models}
        blocks = [b for part in fragments([path]) for b in streaming_scores._scored(part, None, fitted, codes)]
    coded = [Coded(*(block[name].to_numpy() for name in ("model", "sample_id", "score"))) for block in blocks]
    found = by_model(coded, measured, models)
    for m in models:
        role, method, _, model_id, _ = measured.models[m]
        rows = rows_where(table, role=role, method=method, model_id=model_id).sort_by("sample_id")
        assert np.array_equal(found[int(m)], fitted.score(rows))


def streams_refuse_a_split_by_row() -> None:
    """Also where it is of the test fold, whose row groups a worker never opens; before anything is asked of a cluster."""
    table = pool(models=6, samples=20, references=False)
    folds = np.asarray(table["fold"].to_pylist(), dtype=object)
    folds[np.flatnonzero(folds == "train")[::20]] = "test"
    by_row = table.set_column(4, "fold", pa.array(folds.tolist(), pa.string()))
    taken = AssertionError("a split by row was taken")
    with written(by_row, 50) as path, patch.object(streaming_attack, "_free_cpus", side_effect=taken):
        try:
            streaming_attack.fit_all_distributed([path], [ATTACK], num_workers=WORKERS)
        except ValueError as error:
            assert "fold: original model 'original-000' has rows in 2 folds (6 such models)" in str(error)  # noqa: PT017 - as in `checks`


def workers_share_a_row_group() -> None:
    """A file of one row group is divided into ranges of rows: none is trained on twice."""
    table = pool(models=4, samples=10, references=False)
    with written(table, len(table)) as path, tempfile.TemporaryDirectory() as folder:
        found = [spooled(path, rank, Path(folder) / str(rank)) for rank in range(WORKERS)]
    for fold in ("train", "validation"):
        mine = in_order(np.concatenate([worker[fold] for worker in found]))
        theirs = in_order(expected(rows_where(table, fold=fold)))
        assert mine.shape == theirs.shape
        assert np.array_equal(mine, theirs)
