"""The shadow attack of an audit on Ray: from the outputs' own files, which no process holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attack.attacks.spool import FOLDS
from attack.attacks.xgboost import XGBoostAttack
from attack.audit.runner import InProcess, by_model
from attack.outputs.measured import FOLD, ROLE, Measured
from attack.outputs.sampling import Sampled
from attack.outputs.sources import ParquetFiles, Source

from .fit import fit_all_distributed
from .path import knows_gpus
from .scores import score_distributed

# On so many softmax values the settings of an attacker are compared: a million rows of ten classes.
# The driver holds them, and XGBoost's matrix of them: 0.3 GB.
TUNING_VALUES = 10_000_000
TUNING_ROWS = 100_000  # fewer may favour other settings than all rows would
TUNING_SIDE = 1_000  # of each role in each fold
# Rows that the edges of XGBoost's bins are found on. A bin is a 256th of them; a sample moves its
# edge by at most an eighth of that (one standard error). More rows took half of the binning.
CUT_ROWS = 1_000_000


@dataclass(frozen=True)
class OnRay:
    """Fits XGBoost with Ray Train and scores with Ray Data; other attacks that read logits run in
    this process.

    Nodes share nothing but the outputs: what they are told and what they find travels through Ray.

    **Arguments:**

    - `files`: the outputs, which every node can read.
    - `workers`, `cpus_per_worker`: of Ray Train.
    - `spool`: where workers spool, a folder of each node's own, made where it is missing. None:
        the node's temporary folder.
    - `memory_per_worker` (bytes), `rows_per_worker`: as of `fit_all_distributed`.
    """

    files: ParquetFiles
    workers: int
    cpus_per_worker: float
    spool: Path | None = None
    memory_per_worker: float | None = None
    rows_per_worker: int | None = None
    local: InProcess = field(default_factory=InProcess)

    @classmethod
    def of(
        cls,
        nodes: Sequence[Mapping[str, float]],
        files: ParquetFiles,
        spool: Path | None,
        memory_per_worker: float | None,
        rows_per_worker: int | None,
        local: InProcess,
    ) -> OnRay:
        """Returns what fits on a cluster of these `nodes`."""
        workers, cpus = workers_for(nodes, knows_gpus())
        # Nodes that are not this one know nothing of the current folder.
        paths = files.paths if files.filesystem else tuple(str(Path(path).resolve()) for path in files.paths)
        files = ParquetFiles(paths, files.filesystem)
        spool = None if spool is None else spool.resolve()
        return cls(files, workers, cpus, spool, memory_per_worker, rows_per_worker, local)

    def path(self, attack: Any) -> str:
        return "distributed" if issubclass(attack, XGBoostAttack) else self.local.path(attack)

    def fit(self, attacks: Sequence[Any], source: Source, measured: Measured, models: np.ndarray) -> list[Any]:
        if not all(isinstance(attack, XGBoostAttack) for attack in attacks):
            return self.local.fit(attacks, source, measured, models)
        chosen, notes = self._chosen(attacks, source, measured, models)
        try:
            fitted = list(
                fit_all_distributed(
                    self.files.paths,
                    chosen,
                    num_workers=self.workers,
                    resources_per_worker={"CPU": self.cpus_per_worker},
                    filesystem=self.files.filesystem,
                    scratch_dir=self.spool,
                    memory_per_worker=self.memory_per_worker,
                    rows_per_worker=self.rows_per_worker,
                    cut_rows=CUT_ROWS,
                )
            )
        except RuntimeError as error:  # a worker's own words; the audit tells them in one line
            raise ValueError(str(error)) from error
        for each in fitted:
            each.notes.extend(notes)
        return fitted

    def _chosen(
        self, attacks: Sequence[XGBoostAttack], source: Source, measured: Measured, models: np.ndarray
    ) -> tuple[Sequence[XGBoostAttack], list[str]]:
        """Returns the attacks to fit on Ray, and a note where a sample of the rows chose one.

        On so many rows each fit takes minutes. A large sample tells the candidates apart as well.
        """
        sides = Counter((measured.models[m][ROLE], measured.models[m][FOLD]) for m in models)
        rows = {side: count * len(measured.samples) for side, count in sides.items() if side[1] in FOLDS}
        fitting = sum(rows.values())
        learned = fitting if self.rows_per_worker is None else min(fitting, self.workers * self.rows_per_worker)
        width = next(schema.field("logits").type.list_size for schema in source.schemas())
        sample = TUNING_VALUES // width
        if len(attacks) == 1 or learned <= sample:
            return attacks, []
        share = sample / fitting
        if sample < TUNING_ROWS or share * min(rows.values()) < TUNING_SIDE:
            return attacks, []
        tried = self.local.fit(attacks, Sampled(source, share, attacks[0].seed), measured, models)
        best = max(range(len(tried)), key=lambda number: tried[number].validation_f1 or 0.0)
        return [attacks[best]], [
            f"{len(attacks)} settings were compared on a random {share:.2%} of the rows, and the best one was kept"
        ]

    def score(self, fitted: Any, source: Source, measured: Measured, models: np.ndarray) -> dict[int, np.ndarray]:
        if not isinstance(fitted.attack, XGBoostAttack):
            return self.local.score(fitted, source, measured, models)
        # By numbers of their own: the tasks are told of the models under attack and no others.
        wanted = np.unique(models)
        scored = score_distributed(
            self.files.paths, fitted, [measured.models[m] for m in wanted], filesystem=self.files.filesystem
        )
        return by_model((block._replace(model=wanted[block.model]) for block in scored), measured, wanted)


def workers_for(nodes: Sequence[Mapping[str, float]], on_gpus: bool) -> tuple[int, float]:
    """Returns how many workers train and the CPUs of each: one for each GPU, else at least two and
    one for each node.

    They take half of the CPUs, on a node with GPUs half of that node's; the rest reads and scores.

    **Arguments:** `nodes`: what each node has in all, as Ray names it. `on_gpus`: whether XGBoost
    is built for GPUs.
    """
    cards = [(int(node.get("GPU", 0.0)), node.get("CPU", 0.0)) for node in nodes]
    cards = [(count, cpus) for count, cpus in cards if on_gpus and count]
    if cards:
        workers = sum(count for count, _ in cards)
        share = min(cpus / count for count, cpus in cards) / 2
    else:
        workers = max(2, len(nodes))
        share = sum(node.get("CPU", 0.0) for node in nodes) / 2 / workers
    return workers, float(int(share)) if share >= 1 else round(share, 3)
