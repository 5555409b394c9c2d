"""How units name the outputs of the models that they compare."""

from __future__ import annotations

from collections.abc import Sequence

from .specs import Judged, Outputs
from .units import Unit


def nothing_done(outputs: Outputs) -> Outputs:
    """Returns an original's outputs as those of a method that does nothing; models under attack
    stay as they are.

    An attack that is fitted on a method's own models so has a reading of what there was to forget.
    """
    is_original = outputs.role == "original" and outputs.fold != "test"
    return outputs._replace(role="unlearned") if is_original else outputs


def under_test(outputs: Sequence[Unit]) -> tuple[Outputs, ...]:
    """Returns outputs as those of models under test, whatever they are elsewhere."""
    return tuple(Outputs(o.key, "unlearned", "test", o.label.model_id) for o in outputs)


def labelled(outputs: Sequence[Unit]) -> tuple[Outputs, ...]:
    """Returns how a unit names models' outputs and what they are to it."""
    return tuple(Outputs(o.key, o.label.role, o.label.fold, o.label.model_id) for o in outputs)


def judged_ones(outputs: Sequence[Unit]) -> tuple[Judged, ...]:
    """Returns how a score names the outputs of the models on one of its sides."""
    return tuple(Judged(o.key, o.label.model_id) for o in outputs)
