"""Which models of an audit belong to which row."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..metrics.row import NO_UNLEARN, RETRAIN
from ..outputs.measured import FOLD, METHOD, PARAMS, Measured


@dataclass(frozen=True)
class Group:
    """The models of one row, as indices into a `Measured`.

    **Arguments:** `test`: those under attack. `everyone`: those of all folds. `fitting`: those that
    an attack for this method alone may be fitted on.
    """

    method: str
    params: str
    everyone: np.ndarray
    test: np.ndarray
    fitting: np.ndarray

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters as data; text that is no JSON object is kept under `params`."""
        try:
            found = json.loads(self.params or "{}")
        except ValueError:
            return {"params": self.params}
        return found if isinstance(found, dict) else {"params": found}

    @property
    def nothing(self) -> str:
        """What is said of a row without models under attack."""
        wanted = "role unlearned, method retrain" if self.method == RETRAIN else "this role"
        return f"Not measured: no models of {wanted} in fold test."


def groups_of(measured: Measured) -> list[Group]:
    """Returns no_unlearn, retrain, then each (method, params) of the unlearned rows, sorted."""

    def group(method: str, params: str, everyone: np.ndarray, pool: bool) -> Group:
        in_test = np.asarray([measured.models[m][FOLD] == "test" for m in everyone], dtype=bool)
        # Outside the test fold there is nothing to fit on where the models are no product of
        # unlearning.
        return Group(method, params, everyone, everyone[in_test], everyone[~in_test] if pool else everyone[:0])

    unlearned = measured.where(role="unlearned")
    groups = [group(NO_UNLEARN, "{}", measured.where(role="original"), False)]
    groups.append(group(RETRAIN, "{}", measured.where(role="unlearned", method=RETRAIN), False))
    pairs = {(measured.models[m][METHOD], measured.models[m][PARAMS]) for m in unlearned}
    groups += [
        group(method, params, measured.where(role="unlearned", method=method, params=params), True)
        for method, params in sorted(pairs)
        if method != RETRAIN
    ]
    return groups
