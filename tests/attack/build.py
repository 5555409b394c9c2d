"""Outputs with a known distribution of the logit-scaled confidence φ, and slow statements to hold fast code to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from attack import outputs_table


def logits_of(phi: np.ndarray, labels: np.ndarray, classes: int, generator: np.random.Generator) -> np.ndarray:
    """Logits whose φ is exactly `phi`: random others, and the label's logit set from their logsumexp."""
    logits = generator.normal(size=(len(phi), classes))
    rows = np.arange(len(phi))
    others = np.exp(logits)
    others[rows, labels] = 0.0
    logits[rows, labels] = phi + np.log(others.sum(axis=1))
    return logits


def pool(
    *,
    models: int = 12,
    samples: int = 40,
    shift: float = 1.0,
    unlearned: dict[str, float] | None = None,
    spread: float = 1.0,
    difficulty: float = 2.0,
    seed: int = 0,
    classes: int = 4,
    folds: Sequence[float] = (0.5, 0.75),
    unlearn_all: bool = True,
    references: bool = True,
) -> pa.Table:
    """Originals, retrained and unlearned models. φ of sample s is Normal(centre_s + shift of its group, spread).

    `unlearned`: method name → shift. Centres differ by `difficulty` from sample to sample, which only attacks for each
    sample can take out.
    """
    generator = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    centres = difficulty * generator.normal(size=samples)
    groups: list[tuple[str, str, str, float]] = [
        ("original", "original", "", shift),
        ("retrained", "retrained", "", 0.0),
    ]
    groups += [(name, "unlearned", name, value) for name, value in (unlearned or {}).items()]
    if references:
        groups.append(("retrain", "unlearned", "retrain", 0.0))
    tables = []
    for prefix, role, method, extra in groups:
        for model in range(models):
            share = model / models
            fold = "train" if share < folds[0] else "validation" if share < folds[1] else "test"
            if fold != "test" and (method == "retrain" or (role == "unlearned" and not unlearn_all)):
                continue
            phi = generator.normal(centres + extra, spread)
            logits = logits_of(phi, labels, classes, generator)
            ids = np.arange(samples) * 3 + 5
            tables.append(outputs_table(f"{prefix}-{model:03d}", role, method, "{}", fold, ids, labels, logits))
    return pa.concat_tables(tables)


def slow_phi(logits: np.ndarray, label: int) -> float:
    """log p_y − log Σ_{c≠y} p_c, by the definition, one row."""
    p = [math.exp(z - max(logits)) for z in logits]
    p = [value / sum(p) for value in p]
    return math.log(p[label]) - math.log(sum(value for c, value in enumerate(p) if c != label))


def rows_of(table: pa.Table, keep: Callable[[dict], bool]) -> list[dict]:
    """Rows as dictionaries, with φ, that `keep` wants."""
    found = []
    for row in table.to_pylist():
        if keep(row):
            row["phi"] = slow_phi(row["logits"], row["label"])
            found.append(row)
    return found


def slow_auc(members: Sequence[float], others: Sequence[float]) -> float:
    """P(member's score > non-member's) + ½ P(equal), pair by pair."""
    total = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in members for b in others)
    return total / (len(members) * len(others))


def shuffled(table: pa.Table, seed: int = 0) -> pa.Table:
    """The rows in another order."""
    return table.take(pa.array(np.random.default_rng(seed).permutation(len(table))))


def area(table: pa.Table, scores: np.ndarray, method: str, fold: str = "test") -> float:
    """AUC of a method's rows (`original` for models never unlearned) against the test-fold retrained ones."""
    roles, methods, folds = (np.asarray(table[name].to_pylist()) for name in ("role", "method", "fold"))
    mine = (roles == "original") if method == "original" else (roles == "unlearned") & (methods == method)
    from attack import auc

    positive, negative = mine & (folds == fold), (roles == "retrained") & (folds == fold)
    return auc(
        np.repeat([1, 0], [positive.sum(), negative.sum()]), np.concatenate([scores[positive], scores[negative]])
    )
