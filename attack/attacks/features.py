"""Features of the shadow attack: softmax outputs ⊕ the label, one-hot or as one categorical
column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ..outputs.confidence import probabilities

ENCODINGS = ("one_hot", "categorical")


def with_labels(softmax: np.ndarray, labels: np.ndarray, label_classes: int, encoding: str = "one_hot") -> np.ndarray:
    """Returns the softmax beside its labels, float32 `(rows, K + label_classes)`, or `(rows, K +
    1)` where categorical.

    **Raises:** `ValueError` where a label lies outside 0 … label_classes−1.
    """
    if len(labels) and (labels.min() < 0 or labels.max() >= label_classes):
        worst = int(labels.min() if labels.min() < 0 else labels.max())
        raise ValueError(f"label: {worst} lies outside 0 … {label_classes - 1}")
    width = softmax.shape[1]
    extra = label_classes if encoding == "one_hot" else 1
    features = np.zeros((len(labels), width + extra), dtype=np.float32)
    features[:, :width] = softmax
    if encoding == "one_hot":
        features[np.arange(len(labels)), width + labels] = 1.0
    else:
        features[:, width] = labels
    return features


def shadow_features(
    table: pa.Table, label_classes: int, forget_classes: Sequence[int] = (), encoding: str = "one_hot"
) -> np.ndarray:
    """Returns the shadow attack's features, float32.

    In class removal the table holds the kept classes' logits only, or `forget_classes` says which
    to drop. The label stays the original one and may be a forgotten class. Source: the paper's
    supplement, section 1.1.

    **Raises:** `ValueError` where a logit is not finite or a label lies outside 0 …
    label_classes−1.
    """
    return with_labels(probabilities(table, forget_classes), table["label"].to_numpy(), label_classes, encoding)


def feature_types(columns: int, encoding: str) -> list[str] | None:
    """Returns XGBoost's types of `columns` features: None where all are numbers."""
    return None if encoding == "one_hot" else ["q"] * (columns - 1) + ["c"]
