"""Initialising modules again, as when they were made."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def reset(modules: Iterable[nn.Module]) -> None:
    """Draws the parameters of `modules` anew, each by its own `reset_parameters`, in order; clears
    running statistics.

    The global generator is used: seed it first. For the models of `unlearn.models` this gives,
    module by module, the distribution that `build_model` draws from. For a whole model under the
    same seed it gives the same weights.

    Raises `ValueError` naming the first parameter whose module does not know how to initialise
    itself.
    """
    for module in modules:
        own = [name for name, _ in module.named_parameters(recurse=False)]
        again = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if again is not None:
            again()
        elif own:
            raise ValueError(
                f"model: {type(module).__name__} holds the parameter {own[0]!r} and has no reset_parameters(); "
                "give it that method, so that it can be initialised again"
            )
