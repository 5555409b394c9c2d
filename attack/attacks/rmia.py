"""RMIA: robust membership inference by pairwise likelihood ratios (Zarifzadeh et al. 2024, arXiv 2312.03262)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import pyarrow as pa

from ..outputs.confidence import margins_of
from ..outputs.grid import Grid, positions
from ..outputs.measured import Measured
from ..settings import check_choice, check_ranges
from .base import FITTED, Attack, Fitted, Needs
from .references import Side, few_models_notes, row_places, sides

NO_POPULATION = (
    "no population samples: z are the forget samples under retrained models, which makes the score a rank of p(x|θ)/p(x) "
    "without calibration to the model under attack"
)


@dataclass(frozen=True)
class RMIA(Attack):
    """Score(x, θ) = Pr_z[ (p(x|θ)/p(x)) / (p(z|θ)/p(z)) ≥ γ ], where p(x|θ) is the softmax of x's label.

    **Arguments:**

    - `gamma`: how much likelier x must be than z. Larger values tie more rows at 0, so 1 tells most apart.
    - `mode`: p(x) is the mean over reference models: `online` half originals (IN) and half retrained (OUT); `offline`
        ½((1 + a)·OUT mean + 1 − a), which needs no model trained on x.
    - `a`: of the offline form, in [0, 1].
    - `references`: reference models of a role, the first by id; 0 takes all of the train and validation folds.

    The z are population samples that no model was trained on. A table of forget samples has none: without `population`
    they are forget samples under retrained models, and the fitted attack says so in its notes.
    """

    name = "rmia"
    reads = "confidences"
    takes_population = True
    needs: ClassVar[Needs] = {("original", FITTED): 2, ("retrained", FITTED): 2}

    gamma: float = 1.0
    mode: str = "online"
    a: float = 0.3
    references: int = 0

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("online", "offline"))
        check_ranges(self, {"gamma": (1e-6, 1e6), "a": (0.0, 1.0), "references": (0, 1_000_000)})

    def fit(self, outputs: pa.Table | Measured, population: pa.Table | Measured | None = None) -> FittedRMIA:
        """Takes reference models from the train and validation folds.

        **Arguments:**

        - `outputs`: the forget samples' table. `population`: the same models' outputs on samples that none was trained on.

        **Raises:** `ValueError` where a role has fewer than two models there.
        """
        roles = ("retrained",) if self.mode == "offline" else ("retrained", "original")
        samples, found = sides(outputs, self.name, roles, _probability)
        found = [self._first(side) for side in found]
        notes = few_models_notes(
            *((role, len(s.models)) for role, s in zip(roles, found, strict=True) if len(s.models) < 2)
        )
        others = None
        if population is None:
            notes.append(NO_POPULATION)
        else:
            ids, chosen = sides(population, self.name, roles, _probability)
            others = _References(ids, [self._first(side) for side in chosen], self)
        return FittedRMIA(self, _References(samples, found, self), others, notes)

    def _first(self, side: Side) -> Side:
        keep = self.references or len(side.models)
        return Side(side.models[:keep], side.values[:keep])


@dataclass(frozen=True)
class _References:
    samples: np.ndarray
    sides: list[Side]
    attack: RMIA

    def ratio(self, outputs: pa.Table | Measured) -> np.ndarray:
        """Returns p(x|θ)/p(x) of each row; a row's own model is left out of p(x)."""
        columns, targets = row_places(outputs, self.samples, *(side.models for side in self.sides))
        means = [_mean_without(side, columns, target) for side, target in zip(self.sides, targets, strict=True)]
        return _probability(margins_of(outputs, RMIA.name)) / self._prior(means)

    def _prior(self, means: list[np.ndarray]) -> np.ndarray:
        """Returns p(x) from the means over OUT models and, online, over IN models."""
        if self.attack.mode == "offline":
            return np.asarray(0.5 * ((1.0 + self.attack.a) * means[0] + 1.0 - self.attack.a))
        return np.asarray(0.5 * (means[0] + means[1]))

    @cached_property
    def outside_ratios(self) -> np.ndarray:
        """p(z|θ′)/p(z) of every sample under every retrained reference model, each left out of its own p(z); ascending."""
        side = self.sides[0]
        found = []
        for model, values in enumerate(side.values):
            samples = np.flatnonzero(~np.isnan(values))
            own = np.full(len(samples), model if len(side.models) > 1 else -1)
            means = [_mean_without(side, samples, own)]
            if self.attack.mode == "online":
                means.append(_mean_without(self.sides[1], samples, np.full(len(samples), -1)))
            found.append(values[samples] / self._prior(means))
        return np.sort(np.concatenate(found))


@dataclass(frozen=True)
class FittedRMIA(Fitted):
    """Reference probabilities, and the score that they give."""

    attack: RMIA
    references: _References
    population: _References | None
    notes: list[str]

    def score(self, outputs: pa.Table | Measured, population: pa.Table | Measured | None = None) -> np.ndarray:
        """Returns the share of z that each row beats by a factor γ, float64 `(rows,)`, in [0, 1].

        **Arguments:** `population`: the outputs of the models under attack on the population samples, where `fit` had them.
        """
        ratio = self.references.ratio(outputs) if len(outputs) else np.empty(0)
        if self.population is None:
            return _share_beaten(ratio, self.references.outside_ratios, self.attack.gamma)
        if population is None:
            raise ValueError(
                "population: the attack was fitted with population samples; give those of the models to score"
            )
        mine, model_of = _models_of(outputs)
        # Only of the models that are scored: an audit asks for one after another.
        population = _rows_of(population, mine)
        others = self.population.ratio(population)
        theirs, others_of = _models_of(population)
        found = np.empty(len(ratio))
        match = positions(mine, theirs)
        for index, other in enumerate(match):
            rows = model_of == index
            z = np.sort(others[others_of == other])
            found[rows] = _share_beaten(ratio[rows], z, self.attack.gamma)
        return found


def _models_of(outputs: pa.Table | Measured) -> tuple[np.ndarray, np.ndarray]:
    """Returns the models' keys, and each row's index among them."""
    if isinstance(outputs, Measured):
        return outputs.keys(), np.repeat(np.arange(len(outputs.models)), len(outputs.samples))
    grid = Grid.of(outputs)
    return grid.models, grid.model_of


def _rows_of(population: pa.Table | Measured, models: np.ndarray) -> pa.Table | Measured:
    """Returns the population's rows of `models`, by their keys.

    **Raises:** `ValueError` where one has none.
    """
    if isinstance(population, Measured):
        keys = population.keys()
    else:
        keys, model_of = _models_of(population)
    match = positions(models, keys)
    if (match < 0).any():
        raise ValueError(f"population: no rows of model {models[match < 0][0].partition('/')[2]!r}")
    if isinstance(population, Measured):
        return population.only(np.sort(match))
    return population.filter(pa.array(np.isin(model_of, match)))


def _share_beaten(ratio: np.ndarray, ordered: np.ndarray, gamma: float) -> np.ndarray:
    return np.searchsorted(ordered, ratio / gamma, side="right") / len(ordered)


def _probability(margin: np.ndarray) -> np.ndarray:
    """Returns p_y for φ."""
    # Floored where float64 would round to zero, so that a ratio of two impossible events stays defined.
    return np.maximum(np.exp(-np.logaddexp(0.0, -margin)), 1e-300)


def _mean_without(side: Side, columns: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns the mean over a side's models of each row's sample, without the model `target` (−1: none to leave out)."""
    count, total = side.count[columns].astype(np.float64), side.total[columns]
    held = np.flatnonzero(target >= 0)
    count[held] -= 1
    total[held] -= side.values[target[held], columns[held]]
    if len(count) and count.min() < 1:
        raise ValueError(
            "models: a sample has no reference model besides the one under attack; give at least 2 of each role"
        )
    return np.maximum(total / count, 1e-300)
