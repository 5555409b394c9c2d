"""Scoring outputs that one process should not hold: Ray Data scores fragments of Parquet files, and
only scores travel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from pyarrow.fs import FileSystem
from ray.data import DataContext

from attack.attacks.xgboost import FittedXGBoost
from attack.audit.runner import Coded
from attack.outputs.fragments import Fragment, fragments, pieces
from attack.outputs.measured import FOLD, IDENTITY, ROLE, identified

MAX_BLOCKS = 1024


def score_distributed(
    paths: Sequence[str | Path],
    fitted: FittedXGBoost,
    models: Sequence[tuple[str, ...]],
    *,
    filesystem: FileSystem | None = None,
) -> Iterator[Coded]:
    """Scores the outputs of some models in Parquet files on Ray, and yields the scores block by
    block, in any order.

    They travel through Ray's object store, 16 bytes a row, so that nodes need share nothing but the
    outputs themselves.

    **Arguments:**

    - `models`: (role, method, params, model_id, fold) of each model to score; rows of others are
      passed over.
    - `filesystem`: a `pyarrow.fs` file system of the paths; None: local, seen by all nodes.

    **Yields:** `Coded` blocks whose `model` is an index into `models`. Ray must be initialised; no
    process holds more than a few fragments.
    """
    roles, folds = (sorted({model[place] for model in models}) for place in (ROLE, FOLD))
    parts = fragments([str(path) for path in paths], filesystem, roles=roles, folds=folds)
    if not parts or not models:
        return
    DataContext.get_current().enable_progress_bars = False
    score = _ScoreFragments(ray.put((fitted, {model: code for code, model in enumerate(models)})), filesystem)
    blocks: Any = ray.data.from_items(
        [vars(part) for part in parts], override_num_blocks=min(len(parts), MAX_BLOCKS)
    ).map_batches(score, batch_size=1, batch_format="pyarrow", zero_copy_batch=True)
    for block in blocks.iter_batches(batch_size=None, batch_format="pyarrow"):
        if len(block):
            yield Coded(*(block[name].to_numpy() for name in ("model", "sample_id", "score")))


@dataclass(frozen=True)
class _ScoreFragments:
    """Scores fragments; what the attacker is, and which models are wanted, lies once in the object
    store.
    """

    wanted: Any
    filesystem: FileSystem | None

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        attacker, codes = ray.get(self.wanted)
        for item in batch.to_pylist():
            yield from _scored(Fragment(**item), self.filesystem, attacker, codes)


def _scored(
    part: Fragment, filesystem: FileSystem | None, attacker: FittedXGBoost, codes: dict[tuple[str, ...], int]
) -> Iterator[pa.Table]:
    """Yields model int32, sample_id int64 and score float32 of a fragment's wanted rows, a piece at
    a time.
    """
    columns = [*IDENTITY, "sample_id", "label", "logits"]
    for table in pieces(part, filesystem, columns, dictionaries=IDENTITY):
        keys, places = identified(table)
        model = np.asarray([codes.get(key, -1) for key in keys], dtype=np.int32)[places]
        wanted = model >= 0
        rows = table if wanted.all() else table.filter(pa.array(wanted))
        yield pa.table(
            {
                "model": model[wanted],
                "sample_id": rows["sample_id"],
                # The trees' own precision: nothing is lost.
                "score": pa.array(attacker.score(rows), pa.float32()),
            }
        )
