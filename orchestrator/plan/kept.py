"""Outputs on retained and unseen images, and the audit of who else was hurt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unlearn import Split

from ..base.values import Object
from ..recipe.sections import Recipe
from .data import ExperimentData
from .specs import CollateralSpec, Looked, RetainedSpec, UnseenSpec
from .trained import array_digest
from .units import Label, Unit, seed_for

VERSION = 1  # of the audit: raised where stored ones must not be taken for new


@dataclass(frozen=True)
class Kept:
    """The units of one group of models: outputs on retained and on unseen images."""

    retained: tuple[Unit, ...] = ()
    unseen: tuple[Unit, ...] = ()

    def looked_at(self) -> tuple[Looked, ...]:
        """Returns how an audit names them."""
        return tuple(Looked(a.key, b.key) for a, b in zip(self.retained, self.unseen, strict=True))


def unseen_units(recipe: Recipe, data: ExperimentData, outputs: Sequence[Unit]) -> tuple[Unit, ...]:
    """Returns the outputs of the same models on unseen images; none where whole classes are
    removed.

    φ is not defined for a class that has no logit.
    """
    limit = recipe.outputs.test
    if not limit or len(data.kept_classes) < data.dataset.num_classes:
        return ()
    cost = min(limit, len(data.split.val) + len(data.split.test))
    found = []
    for unit in outputs:
        [model] = unit.needs
        spec = UnseenSpec(model.key, data.split_digest, limit)
        found.append(Unit(spec, f"unseen {model.name}", unit.label, (model,), cost))
    return tuple(found)


def kept_units(recipe: Recipe, data: ExperimentData, outputs: Sequence[Unit]) -> Kept:
    """Returns what is kept of the models with these outputs, besides the forget set's logits."""
    limit, seed = recipe.outputs.retain, seed_for(recipe.seed, "retained")
    cost = min(limit, len(data.split.retain))
    found = []
    for unit in outputs:
        [model] = unit.needs
        spec = RetainedSpec(model.key, data.split_digest, limit, seed)
        found.append(Unit(spec, f"retained {model.name}", unit.label, (model,), cost))
    return Kept(tuple(found), unseen_units(recipe, data, outputs))


def retained_rows(split: Split, limit: int, seed: int) -> np.ndarray:
    """Returns the training rows, int64 and sorted, of the retained images that are looked at."""
    drawn = np.random.default_rng(seed).permutation(len(split.retain))[:limit]
    return np.sort(split.retain[drawn])


def collateral_unit(
    recipe: Recipe, data: ExperimentData, method: str, params: Object, name: str, mine: Kept, pool: Kept, before: Kept
) -> Unit[CollateralSpec]:
    """Returns the audit of one row. `before`: empty for the row of models that forgot nothing."""
    spec = CollateralSpec(
        mine.looked_at(),
        pool.looked_at(),
        before.looked_at(),
        "" if data.groups is None else array_digest(data.groups),
        seed_for(recipe.seed, "collateral"),
        VERSION,
    )
    needs = dict.fromkeys(unit for side in (mine, pool, before) for unit in (*side.retained, *side.unseen))
    return Unit(spec, f"collateral of {name}", Label(method=method, params=params), tuple(needs))
