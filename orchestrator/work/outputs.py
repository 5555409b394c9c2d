"""Forget-set logits: one Parquet fragment for each model in the store, and the `outputs/*.parquet`
that they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from attack import outputs_table
from attack.outputs.table import logit_classes, with_classes

from ..plan.specs import Outputs
from ..store import Store


def write_fragment(
    path: Path,
    sample_ids: np.ndarray,
    labels: np.ndarray,
    logits: np.ndarray,
    classes: Sequence[int] | None = None,
    sets: np.ndarray | None = None,
) -> None:
    """Writes one model's logits, ordered by sample id: `sample_id` and `label` int64, `logits`
    float32[C].

    **Arguments:** `sets`: the set of each sample, text; None: all are forget samples. `classes`:
    the class of each column, where some were dropped. Without it, whoever reads the label's logit
    would take another class's for it.
    """
    order = np.argsort(sample_ids, kind="stable")
    values = pa.array(np.ascontiguousarray(logits[order], dtype=np.float32).ravel())
    table = pa.table(
        {
            "sample_id": pa.array(np.asarray(sample_ids)[order].astype(np.int64)),
            "label": pa.array(np.asarray(labels)[order].astype(np.int64)),
            "logits": pa.FixedSizeListArray.from_arrays(values, logits.shape[1]),
        }
    )
    if sets is not None:
        table = table.append_column("set", pa.array(np.asarray(sets)[order].tolist(), pa.string()))
    pq.write_table(with_classes(table, classes), path, compression="zstd")


def model_table(
    store: Store,
    key: str,
    *,
    role: str,
    fold: str,
    model_id: str,
    method: str = "",
    params: str = "{}",
    only: str = "",
) -> pa.Table:
    """Returns one model's outputs as the table that every attack reads.

    **Arguments:** `only`: of outputs on unseen images, the set that is wanted; empty: all.
    """
    fragment = pq.read_table(store.fetch(key, "outputs.parquet"))
    if only:
        fragment = fragment.filter(pc.equal(fragment["set"], only))
    logits = fragment["logits"].combine_chunks()
    matrix = logits.flatten().to_numpy().reshape(len(fragment), -1)
    table = outputs_table(
        model_id=model_id,
        role=role,
        method=method,
        params=params,
        fold=fold,
        sample_ids=fragment["sample_id"].to_numpy(),
        labels=fragment["label"].to_numpy(),
        logits=matrix,
        classes=logit_classes(fragment),
    )
    return table.append_column("set", fragment["set"]) if "set" in fragment.column_names else table


def labelled_tables(store: Store, items: Iterable[Outputs], only: str = "") -> Iterator[pa.Table]:
    """Yields the table of each model's outputs; see `model_table`."""
    for item in items:
        yield model_table(store, item.key, role=item.role, fold=item.fold, model_id=item.model_id, only=only)
