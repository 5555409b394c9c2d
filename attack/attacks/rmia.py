"""RMIA: robust membership inference by pairwise likelihood ratios (Zarifzadeh et al. 2024, arXiv
2312.03262)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import pyarrow as pa

from ..library import load_special
from ..metrics.ascending import Ascending
from ..outputs.measured import MODEL_ID, Measured, positions
from ..settings import check_choice, check_ranges
from .base import FITTED, FITTED_FOLDS, Attack, Fitted, Needs
from .references import Side, few_models_notes, own_places, sides

LEAST = 1e-300  # of probabilities

NO_POPULATION = (
    "no population samples: z are the forget samples under retrained models. "
    "The score is then a rank of p(x|θ)/p(x), without calibration to the model under attack"
)


@dataclass(frozen=True)
class RMIA(Attack):
    """Score(x, θ) = Pr_z[ (p(x|θ)/p(x)) / (p(z|θ)/p(z)) ≥ γ ]. p(x|θ) is the softmax of x's label.

    **Arguments:**

    - `gamma`: how much likelier x must be than z. Larger values tie more rows at 0, so 1 tells most
        apart.
    - `mode`: p(x) is the mean over reference models. `online`: half originals (IN), half retrained
        (OUT). `offline`: ½((1 + a)·OUT mean + 1 − a), which needs no model trained on x.
    - `a`: of the offline form, in [0, 1].
    - `references`: reference models of a role, the first by id; 0 takes all of the train and
        validation folds.

    The z are population samples that no model was trained on. A table of forget samples has none.
    Without `population` they are forget samples under retrained models; a note says so.
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

        - `outputs`: the forget samples' table. `population`: the same models' outputs on samples
            that none was trained on.

        **Raises:** `ValueError` where a role has fewer than two models there.
        """
        references = self._references(outputs)
        counted = ((role, len(side.models)) for role, side in zip(self._roles, references.sides, strict=True))
        notes = few_models_notes(*((role, count) for role, count in counted if count < 2))
        if population is None:
            return FittedRMIA(self, references, None, [*notes, NO_POPULATION])
        return FittedRMIA(self, references, self._references(population), notes)

    @property
    def _roles(self) -> tuple[str, ...]:
        return ("retrained",) if self.mode == "offline" else ("retrained", "original")

    def _references(self, outputs: pa.Table | Measured) -> _References:
        measured = Measured.of(outputs, role=("retrained", "original"), fold=FITTED_FOLDS)
        found = sides(measured, self.name, self._roles, _probability)
        most = self.references or None
        return _References(measured.samples, [Side(s.models[:most], s.values[:most]) for s in found], self)


@dataclass(frozen=True)
class _References:
    samples: np.ndarray
    sides: list[Side]
    attack: RMIA

    def ratio(self, measured: Measured) -> np.ndarray:
        """Returns p(x|θ)/p(x), float64 `(M, S)`; a model that is a reference is left out of its own
        p(x)."""
        columns, found = measured.places(self.samples), _probability(measured.margins(RMIA.name))
        own = [own_places(measured, side.models) for side in self.sides]
        for line, places in enumerate(zip(*own, strict=True)):
            found[line] /= self._prior([s.mean_without(p) for s, p in zip(self.sides, places, strict=True)])[columns]
        return found

    def _prior(self, means: list[np.ndarray]) -> np.ndarray:
        """Returns p(x) from the means over OUT models and, online, over IN models."""
        if self.attack.mode == "offline":
            return np.maximum(0.5 * ((1.0 + self.attack.a) * means[0] + 1.0 - self.attack.a), LEAST)
        return np.maximum(0.5 * (means[0] + means[1]), LEAST)

    @cached_property
    def outside_ratios(self) -> Ascending:
        """p(z|θ′)/p(z) of every sample under every retrained reference model, each left out of its
        own p(z)."""
        outside, *inside = self.sides
        found = []
        for model, values in enumerate(outside.values):
            own = model if len(outside.models) > 1 else -1
            prior = self._prior([outside.mean_without(own), *(side.mean_without(-1) for side in inside)])
            found.append(values / prior)
        return Ascending.of(np.concatenate(found))


@dataclass(frozen=True)
class FittedRMIA(Fitted):
    """Reference probabilities, and the score that they give."""

    attack: RMIA
    references: _References
    population: _References | None
    notes: list[str]

    def score(self, outputs: pa.Table | Measured, population: pa.Table | Measured | None = None) -> np.ndarray:
        """Returns the share of z that each row beats by a factor γ, float64 `(rows,)`, in [0, 1].

        **Arguments:** `population`: the outputs of the models under attack on the population
        samples, where `fit` had them.
        """
        measured = Measured.of(outputs)
        found = self.references.ratio(measured) if len(measured) else np.empty((0, 0))
        if self.population is None:
            z = [self.references.outside_ratios] * len(found)
        elif population is None:
            raise ValueError(
                "population: the attack was fitted with population samples; give those of the models to score"
            )
        else:
            z = self._of_models(measured, Measured.of(population), self.population)
        for line, others in enumerate(z):
            found[line] = _share_beaten(found[line], others, self.attack.gamma)
        return measured.in_rows(found)

    @staticmethod
    def _of_models(measured: Measured, population: Measured, references: _References) -> list[Ascending]:
        """Returns the ratios of the population samples under each model that is scored.

        **Raises:** `ValueError` where a model has no population samples.
        """
        match = positions(measured.keys(), population.keys())
        if (match < 0).any():
            name = measured.models[int(np.argmax(match < 0))][MODEL_ID]
            raise ValueError(f"population: no rows of model {name!r}")
        # Only of the models that are scored: an audit asks for one after another.
        ratios = [references.ratio(population.only(np.asarray([model])))[0] for model in match]
        return [Ascending.of(values) for values in ratios]


def _share_beaten(ratio: np.ndarray, others: Ascending, gamma: float) -> np.ndarray:
    """Returns the share of the others that each ratio beats by a factor of gamma; NaN stays NaN."""
    return np.where(np.isnan(ratio), np.nan, others.reached(ratio / gamma) / len(others))


def _probability(margin: np.ndarray) -> np.ndarray:
    """Returns p_y for φ."""
    # Floored where float64 would round to zero, so that a ratio of two impossible events stays
    # defined.
    return np.maximum(load_special().expit(margin), LEAST)
