"""Confidences from logits: log softmax, φ, margins and entropy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from .table import BLOCK_VALUES, logit_classes, logits_matrix, require_finite


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns log-probabilities in float64, row by row, without overflow."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def phi(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the logit-scaled confidence φ = log p_y − log Σ_{c≠y} p_c = z_y − logsumexp(z_{c≠y}),
    float64 `(rows,)`.

    **Arguments:** `logits`: `(rows, C)`, C ≥ 2. `labels`: the label's column, integers `(rows,)`.

    Source: Carlini et al. 2022, eq. 3, in the stable form.
    """
    width = logits.shape[1]
    if width < 2:
        raise ValueError(
            f"logits: {width} columns are not allowed; φ compares the label with the other classes: 2 or more"
        )
    found = np.empty(len(logits), dtype=np.float64)
    step = max(1, BLOCK_VALUES // width)
    for start in range(0, len(logits), step):
        block = logits[start : start + step].astype(np.float64)
        rows = np.arange(len(block))
        columns = labels[start : start + step]
        own = block[rows, columns].copy()
        block[rows, columns] = -np.inf
        top = block.max(axis=1)
        block -= top[:, None]
        np.exp(block, out=block)
        found[start : start + step] = own - (top + np.log(block.sum(axis=1)))
    return found


def log_confidence(margin: np.ndarray) -> np.ndarray:
    """Returns log p_y for φ, float64 of the same shape: minus the cross-entropy."""
    # log p_y = −log(1 + exp(−φ)), which keeps what softmax would round away for confident rows.
    return np.asarray(-np.logaddexp(0.0, -margin))


def entropy(logits: np.ndarray) -> np.ndarray:
    """Returns the entropy of the softmax in nats, float64 `(rows,)`."""
    found = np.empty(len(logits), dtype=np.float64)
    step = max(1, BLOCK_VALUES // max(1, logits.shape[1]))
    for start in range(0, len(logits), step):
        logs = log_softmax(logits[start : start + step])
        found[start : start + step] = -(np.exp(logs) * logs).sum(axis=1)
    return found


def probabilities(table: pa.Table, forget_classes: Sequence[int] = ()) -> np.ndarray:
    """Returns the softmax over the kept classes, float32 `(rows, kept)`.

    **Arguments:**

    - `forget_classes`: in class removal, classes whose logits are dropped *before* the softmax, for
        every model alike: an unlearned model has no such outputs, so originals and retrained models
        are renormalised over the kept classes too. Classes that the table already holds no column
        of are passed over.

    **Raises:** `ValueError` where a logit is not finite, or no class is left.
    """
    logits = logits_matrix(table)
    if forget_classes:
        classes = logit_classes(table) or list(range(logits.shape[1]))
        kept = [column for column, name in enumerate(classes) if name not in set(forget_classes)]
        if not kept:
            raise ValueError(f"forget_classes: {list(forget_classes)!r} leaves no class of {len(classes)}")
        logits = logits[:, kept]
    require_finite(table, logits)  # of what is kept only: dropped classes may be masked by −∞
    found = np.empty(logits.shape, dtype=np.float32)
    step = max(1, BLOCK_VALUES // max(1, logits.shape[1]))
    for start in range(0, len(logits), step):
        found[start : start + step] = np.exp(log_softmax(logits[start : start + step]))
    return found
