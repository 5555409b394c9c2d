"""Forgetting in steps: how a scenario's steps are put together."""

from __future__ import annotations

import numpy as np

from .data import ExperimentData


def grouped_steps(data: ExperimentData, step: int | None) -> list[np.ndarray]:
    """Returns the sample ids of each step, `step` samples of each class at a time.

    **Raises:** `ValueError` where the scenario's steps do not add up to steps of this size.
    """
    finest = data.split.steps
    if step is None:
        return list(finest)
    if len({len(rows) for rows in finest}) > 1:
        raise ValueError(f"step: {step!r} is not allowed; scenario.requests sets the steps: leave it out")
    each = max(1, len(finest[0]) // data.dataset.num_classes)
    together, rest = divmod(step, each)
    if rest or together < 1 or len(finest) % together:
        sizes = [each * k for k in range(1, len(finest) + 1) if len(finest) % k == 0]
        raise ValueError(
            f"step: {step!r} is not allowed; give one of {', '.join(map(str, sizes))} "
            f"(scenario.step is {each}, and there are {len(finest)} of them)"
        )
    return [np.sort(np.concatenate(finest[i : i + together])) for i in range(0, len(finest), together)]
