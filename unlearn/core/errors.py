"""Errors of unlearning; their text names the setting to change."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UnlearnError(ValueError):
    """A method could not do what was asked; the text names the setting to change."""


class UnlearnTooFast(UnlearnError):
    """Early stop fell on epoch 0: the step size passes the stopping point within one pass."""


class NothingToForget(UnlearnError):
    """Early stop is passed before the first step:

    the model knows the forget set no better than unseen data.
    """


class MethodDidNothing(UnlearnError):
    """The method returned the weights it was given."""


class IncompatibleMoments(UnlearnError):
    """Second moments belong to another model, other layers or other data."""


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?`, or an empty string where no choice is near."""
    near = difflib.get_close_matches(str(word), list(choices), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
