"""Warns of passes that end with a batch too small for batch normalisation."""

from __future__ import annotations

from collections.abc import Iterator

from unlearn import Split
from unlearn.core.rounding import whole_part

from ..recipe.options import settings_of
from ..recipe.sections import Recipe

FEWEST = 8  # see docs/LOG.md, 2026-11-30: what a last batch of 1 to 31 images does


def last_batch_notes(recipe: Recipe, split: Split) -> tuple[str, ...]:
    """Returns a remark for each set of images whose last batch holds fewer than `FEWEST`.

    Such a batch spoils the running mean and variance, which the model is then measured with.
    """
    told = []
    for field, whose, count, size in _passes(recipe, split):
        left = count % size
        if count > size >= FEWEST and 0 < left < FEWEST:
            better = _better(count, size)
            told.append(
                f"{field} {size}: the last batch of {count:,} {whose} images holds {left}. So few spoil batch "
                f"normalisation; {better} leaves {count % better or 'none'} over"
            )
    return tuple(dict.fromkeys(told))


def _passes(recipe: Recipe, split: Split) -> Iterator[tuple[str, str, int, int]]:
    """Yields field, whose images, how many, and the size of a batch, of all that is trained on."""
    forgotten, retained, shadows = len(split.forget), len(split.retain), recipe.shadows
    yield "training.batch_size", "training", len(split.labels), recipe.training.batch_size
    if shadows.retrained or shadows.split[2]:
        yield "training.batch_size", "retained", retained, recipe.training.batch_size
    for point in recipe.methods:
        needs, settings = point.method.needs(), settings_of(point.method)
        if point.method.in_steps or settings.get("batch_norm", "train" if needs.retain else "frozen") == "frozen":
            continue  # forgetting in steps has other sets; what is frozen learns nothing of a batch
        whose, count = (
            ("retained", max(1, whole_part(needs.retain * retained))) if needs.retain else ("forgotten", forgotten)
        )
        yield f"methods: {point.name}: batch_size", whose, count, needs.batch_size


def _better(count: int, size: int) -> int:
    """Returns the nearest size that leaves enough in the last batch, or nothing over."""
    for step in range(1, count):
        for other in (size - step, size + step):
            if other >= FEWEST and not 0 < count % other < FEWEST:
                return other
    return count
