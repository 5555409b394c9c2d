"""What a search makes small, which settings are best, and why: pure functions of measured
numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unlearn.core.rounding import within

from ..base.documents import Trial, TrialStatus

# Worse than anything that can be measured: an objective is at most 0.5 within the bound and 1.5
# beyond it.
FAILED = 2.0
BEYOND = 0.5
FINISHED: TrialStatus = "finished"
STOPPED: TrialStatus = "stopped"
BROKEN: TrialStatus = "failed"


@dataclass(frozen=True)
class Measured:
    """What is known of a setting after some of its models.

    **Arguments:**

    - `models`: how many it was measured on.
    - `auc`, `auc_gap`: fractions; the gap is |AUC − 0.5|.
    - `error`: percent, on the validation half of the test images.
    - `error_rise`: points above the same models before unlearning, as a mean.
    - `objective`: see `objective`. `within_bound`: whether the rise is within the search's bound.
    """

    models: int
    auc: float
    auc_gap: float
    error: float
    error_rise: float
    objective: float
    within_bound: bool


def objective(auc_gap: float, error_rise: float, bound: float | None) -> float:
    """Returns the number that the search makes small.

    **Arguments:**

    - `auc_gap`: |AUC − 0.5|, from 0 to 0.5.
    - `error_rise`: percentage points of error over no unlearning; may be negative.
    - `bound`: the most that the error may rise by, in points; None for any rise.

    Within the bound it is the gap itself. Beyond the bound it is 0.5 plus 0.01 for each point too
    many. So a setting beyond the bound is worse than every setting within it.
    """
    if bound is None or within(error_rise, bound):
        return auc_gap
    return BEYOND + (error_rise - bound) / 100.0


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Returns which of `points` no other point beats: is no larger in both numbers and smaller in
    one.

    The indices come in the order of the first number; of equal points all are kept.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i], i)):
        if not front or points[index][1] < points[front[-1]][1] or points[index] == points[front[-1]]:
            front.append(index)
    return front


def front_of(trials: Sequence[Trial]) -> list[int]:
    """Returns the trials on the Pareto front of error rise and AUC gap, by error rise.

    Only settings measured on all models take part: on fewer, chance alone would make some of them
    look best.
    """
    finished = [
        (index, (trial["error_rise"], trial["auc_gap"]))
        for index, trial in enumerate(trials)
        if trial["status"] == FINISHED and trial["error_rise"] is not None and trial["auc_gap"] is not None
    ]
    return [finished[place][0] for place in pareto_front([point for _, point in finished])]


def winner_of(trials: Sequence[Trial]) -> int | None:
    """Returns the trial with the least objective among those within the bound that were measured on
    all models.

    Of equal ones the one whose error rises less, then the one that was drawn first. None where
    there is no such trial.
    """
    eligible = [i for i, trial in enumerate(trials) if trial["status"] == FINISHED and trial["within_bound"]]
    return min(eligible, key=lambda i: (trials[i]["objective"], trials[i]["error_rise"], i), default=None)
