"""Warns of shadow models whose passes end with a batch too small for batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from unlearn import Split
from unlearn.core.modes import FEW

from ..recipe.sections import Recipe


def last_batch_notes(recipe: Recipe, split: Split) -> tuple[str, ...]:
    """Returns a remark for the originals, and one for Retrain, where the last batch is small.

    Such a batch spoils the running mean and variance, which the model is then measured with. The
    results of a method tell of its own batches.
    """
    size, shadows = recipe.training.batch_size, recipe.shadows
    trained_on = {"training": len(split.labels)}
    if shadows.retrained or shadows.split[2]:
        trained_on["retained"] = len(split.retain)
    better = _better(tuple(trained_on.values()), size)
    return tuple(
        f"training.batch_size {size}: the last batch of {count:,} {whose} images holds {count % size}. So few spoil "
        f"batch normalisation; {better} leaves {count % better or 'none'} over"
        for whose, count in trained_on.items()
        if _spoils(count, size)
    )


def _spoils(count: int, size: int) -> bool:
    """Whether the last batch is small, and the others are not."""
    return count > size > FEW and 0 < count % size <= FEW


def _better(counts: Sequence[int], size: int) -> int:
    """Returns the nearest size that leaves enough in each last batch, or nothing over."""
    for step in range(1, max(counts)):
        for other in (size - step, size + step):
            if other > FEW and not any(_spoils(count, other) for count in counts):
                return other
    return max(counts)
