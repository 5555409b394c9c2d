"""KLoM: KL divergence of margins between unlearned and retrained models (Georgiev et al. 2024,
arXiv 2410.23232)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..outputs.measured import Measured
from ..settings import check_ranges
from .base import Divergence, PerSampleDivergence, margins

BLOCK_SAMPLES = 20_000


@dataclass(frozen=True)
class KLoM(PerSampleDivergence):
    """Per sample KL(unlearned ‖ retrained) of the margin z_y − logsumexp(z_{≠y}), by histograms
    over models.

    **Arguments:**

    - `bins`: equal ones between the least and the largest margin of both groups, sample by sample.
    - `clip`: margins are cut to ±clip first.
    - `floor`: least probability of a bin of the retrained histogram.

    Histograms of few models are rough: the divergence of two equal groups is then far from 0, so
    compare with that of Retrain.
    """

    name = "klom"
    headline = "p95"

    bins: int = 20
    clip: float = 100.0
    floor: float = 1e-5

    def __post_init__(self) -> None:
        check_ranges(self, {"bins": (2, 10_000), "clip": (1e-3, 1e6), "floor": (1e-12, 0.1)})

    def measure(self, unlearned: pa.Table | Measured, retrained: pa.Table | Measured) -> Divergence:
        """Returns KLoM of each sample; the summary has the mean and the 95th percentile."""
        samples, mine, theirs = margins(unlearned, retrained, self.name)
        values = self.of_margins(mine, theirs)
        summary: dict[str, float | None] = {"mean": float(values.mean()), "p95": float(np.quantile(values, 0.95))}
        fewest = min(len(mine), len(theirs))
        notes = []
        if fewest < self.bins:
            notes.append(f"klom: {fewest} models fill {self.bins} bins badly; read it against Retrain's value")
        return Divergence(samples, values, summary, notes)

    def headline_of(self, unlearned: np.ndarray, retrained: np.ndarray) -> float:
        """Returns the 95th percentile over samples."""
        return float(np.quantile(self.of_margins(unlearned, retrained), 0.95))

    def of_margins(self, unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
        """Returns the divergence for margins `(models, S)` of each group, float64 `(S,)`, in
        nats."""
        found = np.empty(unlearned.shape[1])
        for start in range(0, len(found), BLOCK_SAMPLES):
            part = slice(start, start + BLOCK_SAMPLES)
            found[part] = self._block(unlearned[:, part], retrained[:, part])
        return found

    def _block(self, unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
        p, q = np.clip(unlearned, -self.clip, self.clip), np.clip(retrained, -self.clip, self.clip)
        low = np.minimum(p.min(axis=0), q.min(axis=0))
        span = np.maximum(p.max(axis=0), q.max(axis=0)) - low
        scale = np.where(span > 0, self.bins / np.where(span > 0, span, 1.0), 0.0)
        inside, outside = (self._histogram(side, low, scale) for side in (p, q))
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = inside * np.log(inside / np.maximum(outside, self.floor))
        return np.where(inside > 0, terms, 0.0).sum(axis=1)

    def _histogram(self, values: np.ndarray, low: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Returns the share of models in each bin, `(S, bins)`; the largest value belongs to the
        last bin."""
        bins = np.minimum(((values - low) * scale).astype(np.int64), self.bins - 1)
        places = bins + np.arange(values.shape[1]) * self.bins
        counts = np.bincount(places.ravel(), minlength=values.shape[1] * self.bins)
        return counts.reshape(-1, self.bins) / len(values)
