"""What the per-sample attacks share: reference models by sample, taken from the train and validation folds only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..metrics.gaussians import Gaussians, log_density
from ..outputs.confidence import margins_of
from ..outputs.grid import Grid, locate, positions
from ..outputs.measured import METHOD, PARAMS, ROLE, Measured
from ..outputs.table import rows_where
from .base import FITTED_FOLDS, Attack, Fitted

FEW_MODELS = 8


@dataclass(frozen=True)
class Side:
    """Values of one role's reference models on every sample: `models` keys `(M,)`, `values` float64 `(M, S)`."""

    models: np.ndarray
    values: np.ndarray

    @cached_property
    def count(self) -> np.ndarray:
        """How many models have each sample, int64 `(S,)`."""
        return np.asarray((~np.isnan(self.values)).sum(axis=0))

    @cached_property
    def total(self) -> np.ndarray:
        """The sum of their values, float64 `(S,)`."""
        return np.where(np.isnan(self.values), 0.0, self.values).sum(axis=0)


def sides(
    outputs: pa.Table | Measured, attack: str, roles: tuple[str, ...], of_margin: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, list[Side]]:
    """Returns the sample ids and, for each role, its reference models' values.

    **Arguments:**

    - `of_margin`: what to keep of φ, element by element.

    **Raises:** `ValueError` where a role has fewer than two models outside the test fold.
    """
    if isinstance(outputs, Measured):
        chosen = outputs.only(outputs.where(role=roles, fold=FITTED_FOLDS))
        models, samples = chosen.keys(), chosen.samples
        matrix = of_margin(margins_of(chosen, attack)).reshape(chosen.phi.shape)
    else:
        table = rows_where(outputs, role=roles, fold=FITTED_FOLDS)
        grid = Grid.of(table)
        models, samples = grid.models, grid.samples
        matrix = grid.spread(of_margin(margins_of(table, attack)))
    found = []
    for role in roles:
        mine = np.asarray([model.startswith(f"{role}/") for model in models], dtype=bool)
        if mine.sum() < 2:
            raise ValueError(
                f"role: {int(mine.sum())} {role} models in folds train and validation; {attack} needs at least 2 there"
            )
        order = np.argsort(models[mine], kind="stable")
        values = matrix[mine]
        found.append(Side(models[mine][order], values if (np.diff(order) == 1).all() else values[order]))
    return samples, found


def row_places(
    outputs: pa.Table | Measured, samples: np.ndarray, *models: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns each row's index into `samples`, and into each of the lists of model keys (−1 where it is not there)."""
    if isinstance(outputs, Measured):
        columns = locate(outputs.samples, samples.astype(np.int64), "sample_id")
        targets = [np.repeat(positions(outputs.keys(), keys), len(columns)) for keys in models]
        return np.tile(columns, len(outputs.models)), targets
    grid = Grid.of(outputs)
    columns = locate(grid.samples.astype(np.int64), samples.astype(np.int64), "sample_id")[grid.sample_of]
    return columns, [positions(grid.models, keys)[grid.model_of] for keys in models]


def few_models_notes(*counted: tuple[str, int]) -> list[str]:
    """Returns a note for each role with few reference models."""
    return [
        f"{count} {role} reference models: an attack for each sample is weak below about {FEW_MODELS}"
        for role, count in counted
        if count < FEW_MODELS
    ]


@dataclass(frozen=True)
class FittedLikelihoodRatio(Fitted):
    """Gaussians of φ with (IN) and without (OUT) the sample, and the score they give."""

    attack: Attack
    offline: bool
    samples: np.ndarray
    inside: Gaussians | None
    outside: Gaussians
    notes: list[str]

    def score(self, outputs: pa.Table | Measured) -> np.ndarray:
        """Returns log N(φ; IN) − log N(φ; OUT), or offline −log of the OUT Gaussian's upper tail; float64 `(rows,)`.

        A model that is itself among the references is left out of them for its own rows.
        """
        from scipy.special import log_ndtr

        if len(outputs) == 0:
            return np.empty(0)
        keys = [side.models for side in (self.outside, self.inside) if side is not None]
        columns, targets = row_places(outputs, self.samples, *keys)
        values = margins_of(outputs, self.attack.name)
        mean, variance = self.outside.at(columns, targets[0])
        if self.offline or self.inside is None:
            return -log_ndtr(-(values - mean) / np.sqrt(variance))
        return log_density(values, *self.inside.at(columns, targets[1])) - log_density(values, mean, variance)


def fit_likelihood_ratio(
    outputs: pa.Table | Measured, attack: Attack, roles: tuple[str, str], variance: str, offline: bool = False
) -> FittedLikelihoodRatio:
    """Fits Gaussians of φ for each sample, IN from models of `roles[0]` and OUT from those of `roles[1]`, each from its own side."""
    needed = roles[1:] if offline else roles
    samples, found = sides(outputs, attack.name, needed, lambda margin: margin)
    gaussians = [Gaussians.fit(side.models, side.values, variance) for side in found]
    notes = few_models_notes(*((role, len(side.models)) for role, side in zip(needed, found, strict=True)))
    if all(side.constant for side in gaussians):
        notes.append(
            "the confidence is constant over the reference models: the attack saw nothing and its AUC means nothing"
        )
    return FittedLikelihoodRatio(attack, offline, samples, None if offline else gaussians[0], gaussians[-1], notes)


def single_method(outputs: pa.Table | Measured, attack: str) -> pa.Table | Measured:
    """Returns the outputs without the unlearned rows of `retrain`, which are references and no method's.

    **Raises:** `ValueError` where unlearned rows of several methods or settings are left: they are not to be mixed.
    """
    if isinstance(outputs, Measured):
        groups = {(m[METHOD], m[PARAMS]) for m in outputs.models if m[ROLE] == "unlearned"}
    else:
        listed = rows_where(outputs, role="unlearned").group_by(["method", "params"]).aggregate([]).to_pylist()
        groups = {(group["method"], group["params"]) for group in listed}
    methods = sorted(group for group in groups if group[0] != "retrain")
    if len(methods) > 1:
        shown = ", ".join(" ".join(group) for group in methods[:4])
        raise ValueError(
            f"method: {len(methods)} in one table ({shown}); fit {attack} for each method and setting by itself"
        )
    if len(methods) == len(groups):
        return outputs
    if isinstance(outputs, Measured):
        kept = [i for i, m in enumerate(outputs.models) if (m[ROLE], m[METHOD]) != ("unlearned", "retrain")]
        return outputs.only(np.asarray(kept, dtype=np.int64))
    is_reference = pc.and_(pc.equal(outputs["role"], "unlearned"), pc.equal(outputs["method"], "retrain"))
    return outputs.filter(pc.invert(is_reference))
