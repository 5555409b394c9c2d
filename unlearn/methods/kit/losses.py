"""Losses on logits.

All take float32 logits `(n, classes)` and return a scalar unless they say otherwise.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ...core.margins import cross_entropies

REDUCTIONS = ("batchmean", "mean")


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over samples of −log p_y."""
    return F.cross_entropy(logits, labels)


def per_sample_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """−log p_y of each sample, `(n,)`."""
    return cross_entropies(logits, labels)


def divergence(target: Tensor, logits: Tensor, temperature: float = 1.0, reduction: str = "batchmean") -> Tensor:
    """KL(p_target ‖ p) of the softmax of both logits at a temperature.

    **Arguments:** `reduction`: `batchmean` sums over classes and takes the mean over samples, which
    is the divergence. `mean` also divides by the number of classes, as some released code does.
    """
    wanted = F.log_softmax(target / temperature, dim=1)
    found = F.log_softmax(logits / temperature, dim=1)
    total = F.kl_div(found, wanted, reduction="batchmean", log_target=True)
    return total / logits.shape[1] if reduction == "mean" else total
