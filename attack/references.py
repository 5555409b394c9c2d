"""What the per-sample attacks share: reference models by sample, taken from the train and validation folds only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .gaussians import Gaussians, log_density
from .grid import Grid, locate, positions
from .outputs import finite_logits, own_columns, phi, rows_where

FITTED_FOLDS = ("train", "validation")
FEW_MODELS = 8


@dataclass(frozen=True)
class Side:
    """Values of one role's reference models on every sample: `models` keys `(M,)`, `values` float64 `(M, S)`."""

    models: np.ndarray
    values: np.ndarray


def sides(
    outputs: pa.Table, attack: str, roles: tuple[str, ...], value: Callable[[pa.Table], np.ndarray]
) -> tuple[np.ndarray, list[Side]]:
    """Returns the sample ids and, for each role, its reference models' values.

    **Arguments:**

    - `value`: function of a table that returns a float64 for each row.

    **Raises:** `ValueError` where a role has fewer than two models outside the test fold.
    """
    table = rows_where(outputs, role=roles, fold=FITTED_FOLDS)
    grid = Grid.of(table)
    matrix = grid.spread(value(table))
    found = []
    for role in roles:
        mine = np.asarray([model.startswith(f"{role}/") for model in grid.models], dtype=bool)
        if mine.sum() < 2:
            raise ValueError(
                f"role: {int(mine.sum())} {role} models in folds train and validation; {attack} needs at least 2 there"
            )
        found.append(Side(grid.models[mine], matrix[mine]))
    return grid.samples, found


def row_places(table: pa.Table, samples: np.ndarray, *models: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns each row's index into `samples`, and into each of the lists of model keys (−1 where it is not there)."""
    grid = Grid.of(table)
    columns = locate(grid.samples.astype(np.int64), samples.astype(np.int64), "sample_id")[grid.sample_of]
    return columns, [positions(grid.models, keys)[grid.model_of] for keys in models]


def confidence(table: pa.Table, attack: str) -> np.ndarray:
    """Returns φ of each row."""
    return phi(finite_logits(table), own_columns(table, attack))


def few_models_notes(*counted: tuple[str, int]) -> list[str]:
    """Returns a note for each role with few reference models."""
    return [
        f"{count} {role} reference models: an attack for each sample is weak below about {FEW_MODELS}"
        for role, count in counted
        if count < FEW_MODELS
    ]


@dataclass(frozen=True)
class FittedLikelihoodRatio:
    """Gaussians of φ with (IN) and without (OUT) the sample, and the score they give."""

    attack: str
    offline: bool
    samples: np.ndarray
    inside: Gaussians | None
    outside: Gaussians
    notes: list[str]

    def score(self, outputs: pa.Table) -> np.ndarray:
        """Returns log N(φ; IN) − log N(φ; OUT), or offline −log of the OUT Gaussian's upper tail; float64 `(rows,)`.

        A model that is itself among the references is left out of them for its own rows.
        """
        from scipy.special import log_ndtr

        if len(outputs) == 0:
            return np.empty(0)
        keys = [side.models for side in (self.outside, self.inside) if side is not None]
        columns, targets = row_places(outputs, self.samples, *keys)
        values = confidence(outputs, self.attack)
        mean, variance = self.outside.at(columns, targets[0])
        if self.offline or self.inside is None:
            return -log_ndtr(-(values - mean) / np.sqrt(variance))
        return log_density(values, *self.inside.at(columns, targets[1])) - log_density(values, mean, variance)


def fit_likelihood_ratio(
    outputs: pa.Table, attack: str, roles: tuple[str, str], variance: str, offline: bool = False
) -> FittedLikelihoodRatio:
    """Fits Gaussians of φ for each sample, IN from models of `roles[0]` and OUT from those of `roles[1]`, each from its own side."""
    needed = roles[1:] if offline else roles
    samples, found = sides(outputs, attack, needed, lambda table: confidence(table, attack))
    gaussians = [Gaussians.fit(side.models, side.values, variance) for side in found]
    notes = few_models_notes(*((role, len(side.models)) for role, side in zip(needed, found, strict=True)))
    if all(side.constant for side in gaussians):
        notes.append(
            "the confidence is constant over the reference models: the attack saw nothing and its AUC means nothing"
        )
    return FittedLikelihoodRatio(attack, offline, samples, None if offline else gaussians[0], gaussians[-1], notes)


def single_method(outputs: pa.Table, attack: str) -> pa.Table:
    """Returns the table without the unlearned rows of `retrain`, which are references and no method's.

    **Raises:** `ValueError` where unlearned rows of several methods or settings are left: they are not to be mixed.
    """
    unlearned = rows_where(outputs, role="unlearned")
    groups = unlearned.group_by(["method", "params"]).aggregate([]).to_pylist()
    methods = [group for group in groups if group["method"] != "retrain"]
    if len(methods) > 1:
        shown = ", ".join(sorted(f"{group['method']} {group['params']}" for group in methods)[:4])
        raise ValueError(
            f"method: {len(methods)} in one table ({shown}); fit {attack} for each method and setting by itself"
        )
    if len(methods) == len(groups):
        return outputs
    is_reference = pc.and_(pc.equal(outputs["role"], "unlearned"), pc.equal(outputs["method"], "retrain"))
    return outputs.filter(pc.invert(is_reference))
