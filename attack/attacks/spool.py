"""Rows of one worker on its own disk, replayed to XGBoost as often as it reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..library import load_xgboost
from ..outputs.confidence import probabilities
from .features import feature_types, with_labels

FOLDS = ("train", "validation")
BATCH_VALUES = 2_000_000  # feature values in one batch: 8 MB
MAX_BIN = 256


def prepared(rows: pa.Table, forget_classes: tuple[int, ...]) -> pa.Table:
    """Returns what the shadow attack learns from: softmax, label, target (1 = original) and whether
    it is for training."""
    softmax = probabilities(rows, forget_classes)
    return pa.table(
        {
            "softmax": pa.FixedSizeListArray.from_arrays(pa.array(softmax.ravel()), softmax.shape[1]),
            "label": rows["label"].cast(pa.int32()).combine_chunks(),
            "target": pc.equal(rows["role"], "original").cast(pa.float32()).combine_chunks(),
            "training": pc.equal(rows["fold"], "train").combine_chunks(),
        }
    )


class Spool:
    """A worker's rows on its own disk, by fold, and XGBoost's matrices of them.

    **Arguments:**

    - `folder`: taken by the spooled Arrow files and XGBoost's pages. `width`: columns of the
        softmax.
    - `label_classes`, `encoding`: of the label's features. `seed`: of the rows that are drawn, a
        number of the worker's own.
    """

    def __init__(self, folder: Path, width: int, label_classes: int, encoding: str, seed: int = 0):
        self.folder = folder
        self.seed = seed
        self.label_classes = label_classes
        self.encoding = encoding
        self.rows = dict.fromkeys(FOLDS, 0)
        self.width = width
        self.lowest = np.full(width, np.inf)
        self.highest = np.full(width, -np.inf)

    def fill(self, batches: Iterator[pa.Table]) -> None:
        """Writes prepared rows to one Arrow file a fold, in the order given."""
        writers: dict[str, pa.RecordBatchFileWriter] = {}
        try:
            for table in batches:
                for fold, rows in (
                    ("train", table.filter(table["training"])),
                    ("validation", table.filter(pc.invert(table["training"]))),
                ):
                    if not len(rows):
                        continue
                    rows = rows.drop_columns(["training"]).combine_chunks()
                    if fold not in writers:
                        writers[fold] = pa.ipc.new_file(str(self.folder / f"{fold}.arrow"), rows.schema)
                    writers[fold].write_table(rows, max_chunksize=max(1, BATCH_VALUES // self._columns()))
                    self.rows[fold] += len(rows)
                    if fold == "train":
                        values = _matrix(rows["softmax"].chunk(0))
                        self.lowest = np.minimum(self.lowest, values.min(axis=0))
                        self.highest = np.maximum(self.highest, values.max(axis=0))
        finally:
            for writer in writers.values():
                writer.close()

    def _columns(self) -> int:
        return self.width + (self.label_classes if self.encoding == "one_hot" else 1)

    def bytes_in_memory(self) -> int:
        """Returns what XGBoost needs for the binned rows: two bytes a value, and about 48 a row for
        gradients and margins."""
        return sum(self.rows.values()) * (2 * self._columns() + 48)

    def batches(self, fold: str, share: float = 1.0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields features and targets, memory-mapped from the spool; one batch of no rows where the
        fold has none here.

        **Arguments:** `share`: of each batch's rows, drawn at random, the same each time.
        """
        if not self.rows[fold]:
            yield np.empty((0, self._columns()), dtype=np.float32), np.empty(0, dtype=np.float32)
            return
        with pa.memory_map(str(self.folder / f"{fold}.arrow")) as source:
            file = pa.ipc.open_file(source)
            seen: set[int] = set()
            for index in range(file.num_record_batches):
                batch = file.get_batch(index)
                if share < 1.0:
                    batch = batch.filter(pa.array(self._drawn(batch, index, share, seen)))
                features = with_labels(
                    _matrix(batch.column("softmax")),
                    batch.column("label").to_numpy(),
                    self.label_classes,
                    self.encoding,
                )
                yield features, batch.column("target").to_numpy()

    def _drawn(self, batch: pa.RecordBatch, index: int, share: float, seen: set[int]) -> np.ndarray:
        """Returns which rows of a batch are drawn, bool `(rows,)`: `share` of them, and the first
        row of each class that is not in `seen`.

        XGBoost joins classes that it has not seen when it finds its bins.
        """
        found: np.ndarray = np.random.default_rng([self.seed, index]).random(len(batch)) < share
        labels, first = np.unique(batch.column("label").to_numpy(), return_index=True)
        new = [place for label, place in zip(labels.tolist(), first, strict=True) if label not in seen]
        found[new] = True
        seen.update(labels.tolist())
        return found

    def targets(self, fold: str) -> np.ndarray:
        """Returns the fold's targets here, float32 `(rows,)`."""
        return np.concatenate([targets for _, targets in self.batches(fold)])

    def matrix(self, fold: str, external: bool, reference: Any, threads: int, share: float = 1.0) -> Any:
        """Returns XGBoost's matrix of a fold, binned with the same cuts by all workers; paged from
        disk where `external`.

        **Arguments:** `reference`: a matrix whose cuts it takes; None: cuts of its own. `share`: of
        the rows, as of `batches`.
        """
        xgboost = load_xgboost()
        data_iter: Any = xgboost.DataIter
        spool, types = self, feature_types(self._columns(), self.encoding)

        class Replay(data_iter):
            def __init__(self, cache: str | None) -> None:
                self._batches: Iterator[tuple[np.ndarray, np.ndarray]] = iter(())
                super().__init__(cache_prefix=cache)

            def next(self, input_data: Any) -> bool:
                found = next(self._batches, None)
                if found is None:
                    return False
                input_data(data=found[0], label=found[1], feature_types=types)
                return True

            def reset(self) -> None:
                self._batches = spool.batches(fold, share)

        options = {"ref": reference, "max_bin": MAX_BIN, "nthread": threads, "enable_categorical": types is not None}
        if external:
            pages = self.folder / (f"{fold}-pages" if share >= 1.0 else f"{fold}-sample-pages")
            return xgboost.ExtMemQuantileDMatrix(Replay(str(pages)), **options)
        return xgboost.QuantileDMatrix(Replay(None), **options)


def _matrix(column: Any) -> np.ndarray:
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
