"""Population samples beside the outputs under attack: whether both are of the same models, said
before anything is fitted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..attacks.registry import ATTACKS
from ..outputs.measured import FOLD, METHOD, MODEL_ID, PARAMS, ROLE, Measured
from .check import Examination, Problem, label_problems

REFERENCES = ("original", "retrained")
LISTED = 8  # models named in one line; of more, how many


def population_problems(examined: Examination, population: Examination, attacks: Sequence[str]) -> list[Problem]:
    """Returns what stands in the way of attacking `examined` with `population`, nothing where that
    can start.

    **Arguments:** both as `Examination.of` leaves them, their surveys not used up. `attacks`: names
    in `ATTACKS`; what only one that takes a population needs is asked for where there is one.
    """
    found = [problem for problem in population.general if problem.fatal]
    takers = [name for name in attacks if name in ATTACKS and ATTACKS[name].takes_population]
    mine, theirs = examined.survey, population.survey
    if mine is not None and theirs is not None and takers and not found:
        if mine.width != theirs.width:
            found.append(
                Problem(
                    "logits", f"{theirs.width} a row, and {mine.width} in the outputs; give the same classes in both"
                )
            )
        elif mine.classes != theirs.classes:
            found.append(
                Problem(
                    "logits",
                    f"its columns are {_classes(theirs.classes)}, those of the outputs {_classes(mine.classes)}; "
                    "store the same classes with both",
                )
            )
        found += label_problems(theirs, population.num_classes, takers)
        found += _models(mine.models, theirs.models, ", ".join(takers))
    return [Problem("population", str(problem)) for problem in found]


def partners(measured: Measured, population: Measured) -> np.ndarray:
    """Returns where in `population` each model of `measured` is, int64 `(M,)`; −1 where it is not
    there."""
    places = {_key(model): place for place, model in enumerate(population.models)}
    return np.asarray([places.get(_key(model), -1) for model in measured.models], dtype=np.int64)


def _key(model: tuple[str, ...]) -> tuple[str, ...]:
    """What a model goes by: its role and id; unlearned ones also by their method, for several may
    be made of one original."""
    made = (model[METHOD], model[PARAMS]) if model[ROLE] == "unlearned" else ()
    return (model[ROLE], model[MODEL_ID], *made)


def _models(mine: Sequence[tuple[str, ...]], theirs: Sequence[tuple[str, ...]], attacks: str) -> list[Problem]:
    found = []
    there = {_key(model): model for model in theirs}
    # What is scored: the test fold, and for the threshold the validation fold's originals and
    # retrained models.
    scored = [m for m in mine if m[FOLD] == "test" or (m[FOLD] == "validation" and m[ROLE] in REFERENCES)]
    missing = [m for m in scored if _key(m) not in there]
    if missing:
        found.append(
            Problem(
                "model_id",
                f"no rows of {_listed(missing)}; give the outputs of every model under attack on the population samples",
            )
        )
    moved = [m for m in mine if m[ROLE] in REFERENCES and there.get(_key(m), m)[FOLD] != m[FOLD]]
    if moved:
        found.append(Problem("fold", f"not that of the outputs for {_listed(moved)}; a model is in one fold"))
    for role in REFERENCES:
        count = sum(m[ROLE] == role and m[FOLD] != "test" for m in theirs)
        if count < 2:
            found.append(
                Problem("role", f"{count} {role} models in folds train and validation; {attacks} needs at least 2")
            )
    return found


def _listed(models: Sequence[tuple[str, ...]]) -> str:
    named = [
        f"{m[ROLE]} model {m[MODEL_ID]!r}" + (f" ({m[METHOD]} {m[PARAMS]})" if m[ROLE] == "unlearned" else "")
        for m in sorted(models)
    ]
    return ", ".join(named[:LISTED]) + (f" and {len(named) - LISTED} more" if len(named) > LISTED else "")


def _classes(classes: list[int] | None) -> str:
    return "all classes" if classes is None else f"classes {', '.join(map(str, classes))}"
