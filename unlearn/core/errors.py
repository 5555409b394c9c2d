"""Errors of unlearning; their text names the setting to change."""

from __future__ import annotations


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
