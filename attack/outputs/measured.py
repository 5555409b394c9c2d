"""φ and the entropy of every model on every sample: what one pass over the logits leaves, and most attacks work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

IDENTITY = ("role", "method", "params", "model_id", "fold")
ROLE, METHOD, PARAMS, MODEL_ID, FOLD = range(5)


@dataclass(frozen=True)
class Measured:
    """Outputs on a grid of models × samples, without their logits: 16 bytes a row. Attacks that read φ or the entropy take it for a table.

    **Arguments:**

    - `models`: (role, method, params, model_id, fold) of each, `M` of them. `samples`, `labels`: int64 `(S,)`.
    - `phi`: logit-scaled confidence, float64 `(M, S)`, NaN where the label's class has no logit. `entropy`: in nats, float64 `(M, S)`.

    Its rows are those of the first model, then of the second, and so on.
    """

    models: list[tuple[str, ...]]
    samples: np.ndarray
    labels: np.ndarray
    phi: np.ndarray
    entropy: np.ndarray

    def __len__(self) -> int:
        return len(self.models) * len(self.samples)

    def where(self, **allowed: str | Sequence[str]) -> np.ndarray:
        """Returns the indices of the models whose identity has one of the values allowed, for example `role="original"`."""
        wanted = {n: {values} if isinstance(values, str) else set(values) for n, values in allowed.items()}
        kept = [
            index
            for index, model in enumerate(self.models)
            if all(model[IDENTITY.index(name)] in values for name, values in wanted.items())
        ]
        return np.asarray(kept, dtype=np.int64)

    def only(self, models: np.ndarray) -> Measured:
        """Returns the models at these indices; a view where they follow each other."""
        if len(models) and (np.diff(models) == 1).all():
            rows: slice | np.ndarray = slice(int(models[0]), int(models[-1]) + 1)
        else:
            rows = models
        return replace(self, models=[self.models[m] for m in models], phi=self.phi[rows], entropy=self.entropy[rows])

    def keys(self) -> np.ndarray:
        """Returns what names each model among references, `(M,)`: ids are unique within a role."""
        return np.asarray([model_key(model[ROLE], model[MODEL_ID]) for model in self.models], dtype=object)


def model_key(role: str, model_id: str) -> str:
    """Returns what names a model: ids are unique within a role."""
    return f"{role}/{model_id}"


def identified(table: pa.Table) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """Returns the models of a table, in the order of appearance, and each row's index among them, int64 `(rows,)`."""
    from .table import coded_column

    group = np.zeros(len(table), dtype=np.int64)
    columns = []
    for name in IDENTITY:
        values, codes = coded_column(table, name)
        columns.append((values, codes))
        group = group * len(values) + codes
    _, first, places = np.unique(group, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    keys = [tuple(str(values[codes[row]]) for values, codes in columns) for row in first[order]]
    return keys, rank[places.reshape(-1)]
