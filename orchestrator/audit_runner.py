"""The shadow attack of an audit on Ray: from the outputs' own files, which no process holds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from attack.measured import ROLE, Measured
from attack.scoring import InProcess, gathered
from attack.sources import ParquetFiles, Source
from attack.xgboost_attack import XGBoostAttack

from .streaming_attack import fit_all_distributed
from .streaming_scores import score_distributed


@dataclass(frozen=True)
class OnRay:
    """Fits XGBoost with Ray Train and scores with Ray Data; other attacks that read logits run in this process.

    **Arguments:**

    - `files`: the outputs. `scratch`: a folder that every node sees, for scores on their way; removed after use.
    - `workers`, `cpus_per_worker`: of Ray Train. `spool`: where workers spool, a folder of each node's own, made where it
        is missing; None: the node's temporary folder. `options`: further ones of `fit_all_distributed`.
    """

    files: ParquetFiles
    scratch: Path
    workers: int
    cpus_per_worker: float
    spool: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)
    local: InProcess = field(default_factory=InProcess)

    def path(self, attack: Any) -> str:
        return "distributed" if issubclass(attack, XGBoostAttack) else self.local.path(attack)

    def fit(self, attacks: Sequence[Any], source: Source, measured: Measured, models: np.ndarray) -> list[Any]:
        if not all(isinstance(attack, XGBoostAttack) for attack in attacks):
            return self.local.fit(attacks, source, measured, models)
        try:
            return list(
                fit_all_distributed(
                    self.files.paths,
                    attacks,
                    num_workers=self.workers,
                    resources_per_worker={"CPU": self.cpus_per_worker},
                    filesystem=self.files.filesystem,
                    scratch_dir=self.spool,
                    **self.options,
                )
            )
        except RuntimeError as error:  # a worker's own words; the audit tells them in one line
            raise ValueError(str(error)) from error

    def score(self, fitted: Any, source: Source, measured: Measured, models: np.ndarray) -> dict[int, np.ndarray]:
        if not isinstance(fitted.attack, XGBoostAttack):
            return self.local.score(fitted, source, measured, models)
        roles = sorted({measured.models[m][ROLE] for m in models})
        folder = self.scratch / "scores"
        try:
            score_distributed(
                self.files.paths, fitted, folder, filesystem=self.files.filesystem, roles=roles, folds=("test",)
            )
            return gathered(_scored(folder), measured, models)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _scored(folder: Path) -> Iterator[tuple[pa.Table, np.ndarray]]:
    for path in sorted(folder.glob("scores-*.parquet")):
        table = pq.read_table(path)
        yield table, table["score"].to_numpy()


def workers_for(cpus: float, nodes: int) -> tuple[int, float]:
    """Returns how many workers train and the CPUs of each: half of the cluster's, the rest reads and scores."""
    workers = max(2, nodes)
    return workers, max(0.5, float(int(cpus / 2 / workers))) if cpus >= 2 else cpus / 4
