"""Forgetting in steps: a forget set that grows (Hoang et al., WACV 2024, incremental unlearning)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from ..fit import Loader
from ..moments import SecondMoments, second_moments
from .base import EpochCallback, UnlearnResult
from .pgu import PGU


def incremental(
    model: nn.Module,
    method: PGU,
    steps: Iterable[Loader],
    moments: SecondMoments,
    *,
    remaining: Iterable[Loader] | None = None,
    validation: Loader | None = None,
    monitor: Mapping[str, Loader] | None = None,
    on_epoch: EpochCallback | None = None,
) -> Iterator[UnlearnResult]:
    """Forgets step after step, each from the previous step's model.

    The moments run along: step t takes off those of its own forget set, computed with the model that it starts from.
    What earlier steps changed in the inputs of the retain data is not seen by them; `remaining` measures that drift.
    One model and one set of moments are held, however many steps there are.

    **Arguments:**

    - `steps`: one forget loader for each step, in any iterable, also one that makes them as they are asked for.
    - `moments`: of all training data, with `model`.
    - `remaining`: one loader for each step, of the data that is left after it: where given, moments are computed anew
        with the current model instead of running along. This touches the retain data.
    - `validation`, `monitor`, `on_epoch`: as of `PGU.unlearn`.

    **Yields:** the result of each step. Going on is up to the caller: a step may raise `UnlearnTooFast`.

    **Raises:** `ValueError` where `remaining` ends before `steps` does; `IncompatibleMoments`.
    """
    moments.check_model(model)
    left = None if remaining is None else iter(remaining)
    for forget in steps:
        if left is None:
            forgotten = second_moments(model, forget, layers=moments.parts)
            moments = moments.subtract(forgotten, allow_model_change=True)
        else:
            try:
                moments = second_moments(model, next(left), layers=moments.parts)
            except StopIteration:
                raise ValueError("remaining: it ends before the steps do; give one loader for each step") from None
        result = method.unlearn(
            model,
            forget=forget,
            moments=moments.decompose(),
            validation=validation,
            monitor=monitor,
            on_epoch=on_epoch,
        )
        model = result.model
        yield result
