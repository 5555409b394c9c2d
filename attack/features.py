"""Features of the shadow attack: softmax outputs ⊕ one-hot label."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from .outputs import log_softmax, logits_matrix


def shadow_features(table: pa.Table, label_classes: int) -> np.ndarray:
    """Returns softmax over the table's logits beside the one-hot label, float32 `(rows, C + label_classes)`.

    In class removal the table holds the kept classes' logits only: the softmax is then over the kept classes, for
    every model alike, while the label may be a forgotten class. Source: the paper's supplement, section 1.1.

    **Raises:** `ValueError` where a logit is not finite or a label lies outside 0 … label_classes−1.
    """
    logits = logits_matrix(table)
    labels = table["label"].to_numpy()
    if not np.isfinite(logits).all():
        rows = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        raise ValueError(
            f"logits: {len(rows)} rows are not finite, the first for sample_id {table['sample_id'][int(rows[0])].as_py()}"
        )
    if len(labels) and (labels.min() < 0 or labels.max() >= label_classes):
        raise ValueError(f"label: {int(labels.max())} lies outside 0 … {label_classes - 1}")
    features = np.zeros((len(labels), logits.shape[1] + label_classes), dtype=np.float32)
    features[:, : logits.shape[1]] = np.exp(log_softmax(logits))
    features[np.arange(len(labels)), logits.shape[1] + labels] = 1.0
    return features
