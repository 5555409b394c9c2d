"""What the per-sample attacks share: reference models by sample, taken from the train and
validation folds only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from ..library import load_special
from ..metrics.gaussians import Gaussians, log_density, settled_variance
from ..outputs.measured import METHOD, PARAMS, ROLE, Measured, positions
from .base import FITTED_FOLDS, Attack, Fitted

FEW_MODELS = 8
CANCELLED = 1e-6  # what is left of a sum, as a share, where a float64 has few digits of it


@dataclass(frozen=True)
class Side:
    """Values of one role's reference models on every sample: `models` keys `(M,)`, `values` float64
    `(M, S)`."""

    models: np.ndarray
    values: np.ndarray

    @cached_property
    def count(self) -> np.ndarray:
        """How many models have each sample, float64 `(S,)`."""
        return np.asarray((~np.isnan(self.values)).sum(axis=0), dtype=np.float64)

    @cached_property
    def total(self) -> np.ndarray:
        """The sum of their values, float64 `(S,)`."""
        return np.where(np.isnan(self.values), 0.0, self.values).sum(axis=0)

    def mean_without(self, model: int) -> np.ndarray:
        """Returns each sample's mean over the models, float64 `(S,)`, without this one (−1: none to
        leave out).

        **Raises:** `ValueError` where no model is left.
        """
        count, total = self.count, self.total
        if model >= 0:
            own = self.values[model]
            known = ~np.isnan(own)
            own = np.where(known, own, 0.0)
            count, total = count - known, total - own
            # Where this model has nearly all of the sum, the rest is lost in its rounding.
            doubtful = np.flatnonzero(np.abs(total) < CANCELLED * np.abs(own))
            total[doubtful] = np.nansum(np.delete(self.values[:, doubtful], model, axis=0), axis=0)
        if len(count) and count.min() < 1:
            raise ValueError(
                "models: a sample has no reference model besides the one under attack; give at least 2 of each role"
            )
        return total / count


def sides(
    outputs: Measured, attack: str, roles: tuple[str, ...], of_margin: Callable[[np.ndarray], np.ndarray]
) -> list[Side]:
    """Returns, for each role, its reference models' values on the samples of `outputs`.

    **Arguments:** `of_margin`: what to keep of φ, element by element.

    **Raises:** `ValueError` where a role has fewer than two models outside the test fold, or one in
    two folds.
    """
    found = []
    for role in roles:
        chosen = outputs.only(outputs.where(role=role, fold=FITTED_FOLDS))
        models = chosen.keys()
        if len(models) < 2:
            raise ValueError(
                f"role: {len(models)} {role} models in folds train and validation; {attack} needs at least 2 there"
            )
        if len(set(models)) < len(models):
            raise ValueError(f"model_id: {role} models of the same id in two folds; split by model, never by row")
        order = np.argsort(models, kind="stable")
        values = of_margin(chosen.margins(attack))
        found.append(Side(models[order], values if (np.diff(order) == 1).all() else values[order]))
    return found


def own_places(outputs: Measured, models: np.ndarray) -> np.ndarray:
    """Returns where each model of `outputs` is among reference models, by their keys; −1 where it
    is not there."""
    return positions(outputs.keys(), models)


def few_models_notes(*counted: tuple[str, int]) -> list[str]:
    """Returns a note for each role with few reference models."""
    return [
        f"{count} {role} reference models: an attack for each sample is weak below about {FEW_MODELS}"
        for role, count in counted
        if count < FEW_MODELS
    ]


@dataclass(frozen=True)
class FittedLikelihoodRatio(Fitted):
    """Gaussians of φ with (IN) and without (OUT) the sample, and the score they give. IN is None
    offline."""

    attack: Attack
    samples: np.ndarray
    inside: Gaussians | None
    outside: Gaussians
    notes: list[str]

    def score(self, outputs: pa.Table | Measured) -> np.ndarray:
        """Returns log N(φ; IN) − log N(φ; OUT), or offline −log of the OUT Gaussian's upper tail;
        float64 `(rows,)`.

        A model that is itself among the references is left out of them for its own rows.
        """
        measured = Measured.of(outputs)
        if len(measured) == 0:
            return np.empty(0)
        columns, values = measured.places(self.samples), measured.margins(self.attack.name)
        outside = own_places(measured, self.outside.models)
        inside = None if self.inside is None else own_places(measured, self.inside.models)
        found = np.empty_like(values)
        for line, own in enumerate(values):
            mean, variance = self.outside.at(columns, outside[line])
            if self.inside is None or inside is None:
                found[line] = -load_special().log_ndtr(-(own - mean) / np.sqrt(variance))
            else:
                with_sample = self.inside.at(columns, inside[line])
                found[line] = log_density(own, *with_sample) - log_density(own, mean, variance)
        return measured.in_rows(found)


def fit_likelihood_ratio(
    outputs: Measured, attack: Attack, roles: tuple[str, str], variance: str, offline: bool = False
) -> FittedLikelihoodRatio:
    """Fits Gaussians of φ for each sample: IN from models of `roles[0]`, OUT from those of
    `roles[1]`, each from its own side.

    The fitted attack says what a variance of `auto` came to.
    """
    needed = roles[1:] if offline else roles
    found = sides(outputs, attack.name, needed, lambda margin: margin)
    models = [len(side.models) for side in found]
    attack, fixed = attack.settled(models), settled_variance(variance, models) == "fixed"
    gaussians = [Gaussians.fit(side.models, side.values, fixed) for side in found]
    notes = few_models_notes(*((role, len(side.models)) for role, side in zip(needed, found, strict=True)))
    if all(side.constant for side in gaussians):
        notes.append(
            "the confidence is constant over the reference models: the attack saw nothing and its AUC means nothing"
        )
    inside = None if offline else gaussians[0]
    return FittedLikelihoodRatio(attack, outputs.samples, inside, gaussians[-1], notes)


def single_method(outputs: Measured, attack: str) -> Measured:
    """Returns the outputs without the unlearned models of `retrain`, which are references and no
    method's.

    **Raises:** `ValueError` where unlearned models of several methods or settings are left: they
    are not to be mixed.
    """
    groups = {(m[METHOD], m[PARAMS]) for m in outputs.models if m[ROLE] == "unlearned"}
    methods = sorted(group for group in groups if group[0] != "retrain")
    if len(methods) > 1:
        shown = ", ".join(" ".join(group) for group in methods[:4])
        raise ValueError(
            f"method: {len(methods)} in one table ({shown}); fit {attack} for each method and setting by itself"
        )
    if len(methods) == len(groups):
        return outputs
    kept = [i for i, m in enumerate(outputs.models) if (m[ROLE], m[METHOD]) != ("unlearned", "retrain")]
    return outputs.only(np.asarray(kept, dtype=np.int64))
