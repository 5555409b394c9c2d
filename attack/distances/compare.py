"""What a row says beside its attacks: how far its models are from retrained ones, and whether
anything was done to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..metrics.roc import ks_distance
from ..outputs.measured import Measured
from .base import PerSampleDivergence
from .chance import Gap, gap

DEFAULT_DIVERGENCES = ("klom", "forgetting_quality")
UNCHANGED = "its outputs are those of the originals to the last bit: the method did nothing"
FOLD_ORDER = ("test", "validation", "train")


@dataclass(frozen=True)
class Distances:
    """Metrics by name (None where not measurable), the samples that stand out by divergence, and
    notes.

    `models`: how many of the row's models they were measured on. `gaps`: by divergence, its
    headline beside chance.
    """

    metrics: dict[str, float | None] = field(default_factory=dict)
    worst_samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    models: int = 0
    gaps: dict[str, Gap] = field(default_factory=dict)


def equal_count(sizes: Sequence[int], retrained: int) -> int:
    """Returns how many models of each row its distances are measured on: as many as the smallest
    row has, of those with 2 or more.

    The divergences depend on the number of models, so those of all rows are read beside Retrain's
    only where it is the same.

    **Arguments:** `sizes`: models of each row. `retrained`: models that they are compared with.
    """
    return min([size for size in sizes if size > 1] + [retrained])


def first_of(models: Sequence[tuple[str, str]], count: int) -> list[int]:
    """Returns the places of the first `count` of these (fold, model id), those of the test fold
    first."""
    order = sorted(range(len(models)), key=lambda place: (FOLD_ORDER.index(models[place][0]), models[place][1]))
    return order[:count]


def distances(
    measured: Measured,
    *,
    tested: np.ndarray,
    negative: np.ndarray,
    models: np.ndarray,
    retrained: np.ndarray,
    originals: Sequence[int] | np.ndarray = (),
    divergences: Sequence[PerSampleDivergence],
) -> Distances:
    """Compares one row's models with retrained ones: `ks_log_entropy`, and `<divergence>/<number>`
    for each of its summary.

    **Arguments:** indices into `measured.models`.

    - `tested`, `negative`: the row's models under attack and the retrained ones of their fold,
        whose entropies are compared.
    - `models`, `retrained`: those that the divergences compare, equally many (`equal_count`).
    - `originals`: what the row's models were unlearned from; a row whose outputs are all theirs
        gets a note. Empty for rows that are no product of unlearning.

    A divergence that cannot be measured, with one model or without the label's logit, is None and
    told in a note. Its interval is that of its `gap`.
    """
    found = Distances(models=len(models))
    logs = [np.log(np.maximum(measured.entropy[side].ravel(), 1e-30)) for side in (tested, negative)]
    found.metrics["ks_log_entropy"] = ks_distance(logs[0], logs[1])
    if _unchanged(measured, tested, originals):
        found.notes.append(UNCHANGED)
    mine, theirs = measured.only(models), measured.only(retrained)
    for divergence in divergences:
        name = divergence.name
        try:
            result = divergence.measure(mine, theirs)
        except ValueError as error:
            found.metrics[f"{name}/{divergence.headline}"] = None
            found.notes.append(f"{name}: not measured: {str(error).removeprefix(f'{name}: ')}")
            continue
        found.metrics.update({f"{name}/{key}": value for key, value in result.summary.items()})
        found.worst_samples[name] = [
            {"sample_id": i, "value": value if np.isfinite(value) else None} for i, value in result.worst()
        ]
        found.notes.extend(result.notes)
        between = gap(divergence, mine.margins(name), theirs.margins(name))
        if between is not None:
            found.gaps[name] = between
    return found


def _unchanged(measured: Measured, models: np.ndarray, originals: Sequence[int] | np.ndarray) -> bool:
    """Says whether every one of the models puts out what one of the originals does."""
    known = {measured.entropy[m].tobytes() for m in originals}
    return bool(known) and all(measured.entropy[m].tobytes() in known for m in models)
