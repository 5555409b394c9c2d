"""The losses of projected-gradient unlearning."""

from __future__ import annotations

import torch
from torch import Tensor


def forgetting_terms(logits: Tensor, labels: Tensor, offset: float) -> tuple[Tensor, Tensor]:
    """Returns mean(−log(1 − (p_y − offset))) and mean(Σ_c p_c log p_c), the negative entropy.

    Minimising the first takes the label's probability away; minimising the second raises the
    entropy. **Arguments:** `logits`: `(n, C)`; `labels`: int64 `(n,)`, the labels to forget;
    `offset` keeps the logarithm finite. Source: Hoang et al., WACV 2024.
    """
    log_p = torch.log_softmax(logits.float(), dim=1)
    p = log_p.exp()
    own = p.gather(1, labels[:, None])[:, 0]
    return -torch.log1p(offset - own).mean(), (p * log_p).sum(dim=1).mean()


def depoisoning_terms(logits: Tensor, labels: Tensor, offset: float) -> tuple[Tensor, Tensor]:
    """Returns the first term of `forgetting_terms` and the entropy of the softmax over the classes
    other than the label.

    Minimising the second drives each sample to its most likely other class.
    """
    first, _ = forgetting_terms(logits, labels, offset)
    classes = logits.shape[1]
    keep = torch.ones_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], False)
    log_q = torch.log_softmax(logits.float()[keep].view(-1, classes - 1), dim=1)
    return first, -(log_q.exp() * log_q).sum(dim=1).mean()
