"""Distances between unlearned and retrained models, sample by sample: metrics that name no single
model a member."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from ..outputs.measured import Measured
from ..registry import Registry


@dataclass(frozen=True)
class Divergence:
    """A distance for each sample. `samples` int64 `(S,)`, `values` float64 `(S,)`, and the
    `summary` that a table shows."""

    samples: np.ndarray
    values: np.ndarray
    summary: dict[str, float | None]
    notes: list[str]

    def worst(self, count: int = 10) -> list[tuple[int, float]]:
        """Returns (sample id, value) of the samples with the largest distance, largest first."""
        order = np.argsort(-self.values, kind="stable")[:count]
        return [(int(self.samples[i]), float(self.values[i])) for i in order]


class PerSampleDivergence(ABC):
    """A frozen dataclass whose fields are its settings; `headline` names the number of its summary
    that a table leads with."""

    name: ClassVar[str]
    headline: ClassVar[str]

    @abstractmethod
    def measure(self, unlearned: pa.Table | Measured, retrained: pa.Table | Measured) -> Divergence:
        """Compares two groups of models on the samples that both have."""

    def headline_of(self, unlearned: np.ndarray, retrained: np.ndarray) -> float | None:
        """Returns the headline for φ of each group, `(models, S)`. None: it has no interval."""
        return None


def margins(
    unlearned: pa.Table | Measured, retrained: pa.Table | Measured, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the sample ids, and the margins z_y − logsumexp(z_{≠y}) of both groups, each float64
    `(models, S)`.

    **Raises:** `ValueError` where a group has fewer than two models, or the groups have not the
    same samples.
    """
    groups = [Measured.of(outputs) for outputs in (unlearned, retrained)]
    matrices = [group.margins(name) for group in groups]
    for role, matrix in zip(("unlearned", "retrained"), matrices, strict=True):
        if len(matrix) < 2:
            raise ValueError(
                f"role: {len(matrix)} {role} models; {name} compares distributions over models: at least 2"
            )
    if not np.array_equal(groups[0].samples, groups[1].samples):
        raise ValueError("sample_id: unlearned and retrained models were not measured on the same samples")
    for role, group in zip(("unlearned", "retrained"), groups, strict=True):
        if group.present is not None:
            raise ValueError(f"sample_id: some {role} models lack samples that others have")
    return groups[0].samples, matrices[0], matrices[1]


DIVERGENCES: Registry[PerSampleDivergence] = Registry(
    "attack.divergences",
    "attack.distances.base:PerSampleDivergence",
    {
        "klom": "attack.distances.klom:KLoM",
        "forgetting_quality": "attack.distances.forgetting_quality:ForgettingQuality",
    },
)
