"""The loaders that a method is handed: what it declares and nothing more."""

from __future__ import annotations

import numpy as np

from unlearn.methods.base import Inputs, Method, share_of

from .context import Context


def method_inputs(
    method: Method, context: Context, seed: int, forget: np.ndarray | None = None, left: np.ndarray | None = None
) -> Inputs:
    """Returns the loaders that `method` declares it needs, and the worker's captured steps where it
    takes them; moments are the caller's to add.

    **Arguments:** `forget`, `left`: sample ids to forget and those that are left; None: of the
    split. In a step of many they are that step's.
    """
    split, needs = context.data.split, method.needs()
    rows = split.retain if left is None else left
    given: Inputs = {"forget": context.forget_loader(split.forget if forget is None else forget, needs)}
    if needs.retain:
        given["retain"] = context.loader(
            "train",
            share_of(rows, needs.retain, seed),
            batch_size=needs.batch_size,
            augment=needs.augment,
            seed=seed,
            shuffle=True,
        )
    if needs.graphs:
        given["graphs"] = context.graphs
    if needs.validation:
        given["validation"] = context.loader("test", split.val)
    if needs.monitor:
        # Stopping looks at the validation half, so that the reported half of the test data stays
        # unseen.
        given["monitor"] = {"retain": context.loader("train", rows), "test": context.loader("test", split.val)}
    if split.forget_classes:
        given["num_classes"] = context.data.dataset.num_classes
        given["forget_classes"] = tuple(int(c) for c in split.forget_classes)
    return given
