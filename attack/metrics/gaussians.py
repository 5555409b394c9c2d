"""Per-sample Gaussians of φ over one side's models, with the model under attack left out of its own
reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

VARIANCE_FLOOR = 1e-12
# Carlini et al. 2022, section VI: of 64 models half have a sample. With fewer a side, a variance
# per sample is too noisy.
PER_SAMPLE_MODELS = 32
VARIANCES = ("auto", "per_sample", "fixed")


def settled_variance(variance: str, sides: Sequence[int]) -> str:
    """Returns `per_sample` or `fixed` for `auto`: per sample where every side has 32 models or
    more.

    **Arguments:** `variance`: of `VARIANCES`. `sides`: how many models each has.
    """
    if variance != "auto":
        return variance
    return "per_sample" if min(sides, default=0) >= PER_SAMPLE_MODELS else "fixed"


@dataclass(frozen=True)
class Gaussians:
    """One Gaussian a sample, fitted to φ of one side's models.

    **Arguments:**

    - `models`: their keys `(M,)`. `values`: φ, float64 `(M, S)`, NaN where a model lacks a sample.
    - `fixed`: one within-sample variance for all samples, for few models; else each sample's own.
    """

    models: np.ndarray
    values: np.ndarray
    fixed: bool
    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray  # Σ (φ − mean)² of each sample

    @classmethod
    def fit(cls, models: np.ndarray, values: np.ndarray, fixed: bool) -> Gaussians:
        """Fits the side."""
        known = ~np.isnan(values)
        count = known.sum(axis=0)
        filled = np.where(known, values, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = filled.sum(axis=0) / count
        squares = np.where(known, values - mean, 0.0)
        np.square(squares, out=squares)
        return cls(models, values, fixed, count, mean, squares.sum(axis=0))

    @property
    def constant(self) -> bool:
        """Whether φ varies over no sample's models."""
        return bool((self.squares <= VARIANCE_FLOOR).all())

    def at(self, columns: np.ndarray | slice, model: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and variance of samples, float64 `(columns,)` each, fitted without one
        model.

        **Arguments:** `columns`: which samples. `model`: the one to leave out, −1 for none.

        **Raises:** `ValueError` where too few models are left.
        """
        count = self.count[columns].astype(np.float64)
        mean, squares = self.mean[columns], self.squares[columns]
        if model >= 0:
            own = self.values[model][columns]
            known = ~np.isnan(own)
            n, deviation = count, np.where(known, own - mean, 0.0)
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = mean - deviation / (n - 1)
                squares = squares - deviation**2 * n / (n - 1)
            count = n - known
        if len(count) and count.min() < 2:
            raise ValueError(
                f"models: a sample has {int(count.min())} reference models besides the one under attack; "
                "at least 2 on each side are needed, and several more for an answer worth having"
            )
        variance = np.full(len(count), self._fixed_variance[model]) if self.fixed else squares / (count - 1)
        return mean, np.maximum(variance, VARIANCE_FLOOR)

    @cached_property
    def _fixed_variance(self) -> np.ndarray:
        """Within-sample variance pooled over samples, `(M + 1,)`: without each model, and (last, so
        index −1) with all."""
        pooled = np.empty(len(self.models) + 1)
        pooled[-1] = _pooled(self.squares, self.count)
        for index, own in enumerate(self.values):
            known = ~np.isnan(own) & (self.count > 1)
            n = self.count.astype(np.float64)
            squares = self.squares.copy()
            squares[known] -= (own[known] - self.mean[known]) ** 2 * n[known] / (n[known] - 1)
            pooled[index] = _pooled(squares, self.count - ~np.isnan(own))
        return pooled


def _pooled(squares: np.ndarray, count: np.ndarray) -> float:
    usable = count > 1
    freedom = float((count[usable] - 1).sum())
    # refused by `at`, which counts models
    return float(squares[usable].sum()) / freedom if freedom else math.nan


def log_density(values: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Returns the Gaussian log-density."""
    return -0.5 * (np.log(2.0 * np.pi * variance) + (values - mean) ** 2 / variance)
