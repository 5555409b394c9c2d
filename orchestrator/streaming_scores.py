"""Scoring outputs that one process should not hold: Ray Data scores fragments of Parquet files into files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from attack.fragments import Fragment, fragments, pieces
from attack.outputs import rows_where
from attack.xgboost_attack import FittedXGBoost

IDENTITY = ["model_id", "role", "method", "params", "fold", "sample_id"]
MAX_BLOCKS = 1024


def score_distributed(
    paths: Sequence[str | Path],
    fitted: FittedXGBoost,
    output: str | Path,
    *,
    filesystem: Any = None,
    output_filesystem: Any = None,
    roles: Sequence[str] | None = None,
    folds: Sequence[str] | None = None,
) -> int:
    """Scores outputs in Parquet files on Ray, into one Parquet file a fragment below `output`; returns the rows written.

    **Arguments:** `filesystem`, `output_filesystem`: `pyarrow.fs` file systems of the paths and of `output`; None: local, seen by all nodes.

    The files have the outputs' columns but label and logits, and `score` float64. Ray must be initialised; no process
    holds more than a fragment.
    """
    import ray

    names = [str(path) for path in paths]
    parts = fragments(names, filesystem, roles=roles, folds=folds)
    if output_filesystem is None:
        Path(output).mkdir(parents=True, exist_ok=True)
    attacker = ray.put(fitted)
    score = _ScoreFragments(attacker, str(output), filesystem, output_filesystem, roles, folds)
    items = [{"index": index, **vars(part)} for index, part in enumerate(parts)]
    if not items:
        return 0
    counted = ray.data.from_items(items, override_num_blocks=min(len(items), MAX_BLOCKS)).map_batches(
        score, batch_size=1, batch_format="pyarrow", zero_copy_batch=True
    )
    return int(sum(row["rows"] for row in counted.iter_rows()))


@dataclass(frozen=True)
class _ScoreFragments:
    """Scores fragments into files; a task that is run again writes the same file."""

    attacker: Any
    output: str
    filesystem: Any
    output_filesystem: Any
    roles: Sequence[str] | None
    folds: Sequence[str] | None

    def __call__(self, batch: pa.Table) -> pa.Table:
        import ray

        fitted: FittedXGBoost = ray.get(self.attacker)
        total = 0
        for item in batch.to_pylist():
            name = f"scores-{item.pop('index'):06d}.parquet"
            writer: pq.ParquetWriter | None = None
            temporary = f"{self.output}/.{name}.tmp" if self.output_filesystem is None else f"{self.output}/{name}"
            for table in pieces(Fragment(**item), self.filesystem, None):
                filters = {"role": self.roles, "fold": self.folds}
                rows = rows_where(table, **{k: v for k, v in filters.items() if v is not None})
                if not len(rows):
                    continue
                scored = rows.select(IDENTITY).append_column("score", pa.array(fitted.score(rows)))
                if writer is None:
                    writer = pq.ParquetWriter(
                        temporary, scored.schema, filesystem=self.output_filesystem, compression="zstd"
                    )
                writer.write_table(scored)
                total += len(scored)
            if writer is not None:
                writer.close()
                if self.output_filesystem is None:
                    os.replace(temporary, f"{self.output}/{name}")
        return pa.table({"rows": [total]})
