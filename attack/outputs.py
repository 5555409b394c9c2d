"""The outputs table: one row for each (model, forget sample), the one input of every attack."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

ROLES = ("original", "retrained", "unlearned")
FOLDS = ("train", "validation", "test")


def OUTPUTS_SCHEMA(num_classes: int) -> pa.Schema:
    """Returns the schema of outputs with `num_classes` logits a row."""
    return pa.schema(
        [
            ("model_id", pa.string()),
            ("role", pa.string()),
            ("method", pa.string()),
            ("params", pa.string()),
            ("fold", pa.string()),
            ("sample_id", pa.int64()),
            ("label", pa.int64()),
            ("logits", pa.list_(pa.float32(), num_classes)),
        ]
    )


def outputs_table(
    model_id: str,
    role: str,
    method: str,
    params: str,
    fold: str,
    sample_ids: np.ndarray,
    labels: np.ndarray,
    logits: np.ndarray,
) -> pa.Table:
    """Returns one model's outputs.

    **Arguments:**

    - `sample_ids`, `labels`: integers `(n,)`. `logits`: `(n, C)`, stored as float32.
    - `params`: the method's parameters as JSON text, `{}` where there are none.

    **Raises:** `ValueError` for an unknown role or fold, or arrays of different lengths.
    """
    if role not in ROLES:
        raise ValueError(f"role: {role!r} is not allowed; allowed are {', '.join(ROLES)}")
    if fold not in FOLDS:
        raise ValueError(f"fold: {fold!r} is not allowed; allowed are {', '.join(FOLDS)}")
    logits = np.ascontiguousarray(logits, dtype=np.float32)
    count = len(sample_ids)
    if logits.ndim != 2 or len(logits) != count or len(labels) != count:
        raise ValueError(f"logits: shape {logits.shape} does not fit {count} sample ids and {len(labels)} labels")

    def constant(text: str) -> pa.Array:
        return pa.repeat(pa.scalar(text, pa.string()), count)

    columns = [
        constant(model_id),
        constant(role),
        constant(method),
        constant(params),
        constant(fold),
        pa.array(np.asarray(sample_ids, dtype=np.int64)),
        pa.array(np.asarray(labels, dtype=np.int64)),
        pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), logits.shape[1]),
    ]
    return pa.Table.from_arrays(columns, schema=OUTPUTS_SCHEMA(logits.shape[1]))


def logits_matrix(table: pa.Table) -> np.ndarray:
    """Returns the logits as float32 `(rows, C)`, without a copy where the table is in one chunk."""
    column = table["logits"]
    width = column.type.list_size
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    if not chunks:
        return np.empty((0, width), dtype=np.float32)
    flat = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
    return flat.reshape(-1, width)


def text_column(table: pa.Table, name: str) -> np.ndarray:
    """Returns a text column as a NumPy array of str."""
    return np.asarray(table[name].to_pylist(), dtype=object)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns log-probabilities in float64, row by row, without overflow."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def phi(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the logit-scaled confidence φ = log p_y − log Σ_{c≠y} p_c = z_y − logsumexp(z_{c≠y}), float64 `(rows,)`.

    Source: Carlini et al. 2022, eq. 3, in the stable form.
    """
    scores = logits.astype(np.float64)
    rows = np.arange(len(scores))
    own = scores[rows, labels]
    others = scores.copy()
    others[rows, labels] = -np.inf
    top = others.max(axis=1)
    return own - (top + np.log(np.exp(others - top[:, None]).sum(axis=1)))
