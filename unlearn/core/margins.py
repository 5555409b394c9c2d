"""How sure a model is of a label, without the rounding of p_y to 1.

In float32 p_y − 1 is 0 from a margin of about 16 on. The gradient of the usual cross-entropy then
lacks the part of the label's own logit, so that it points elsewhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def odds_against(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns log((1 − p_y) / p_y) of each sample, `(n,)`: its gradient has the direction of the
    cross-entropy's.

    **Arguments:** `logits` `(n, classes)`, `labels` int64 `(n,)`.
    """
    # Not −∞: with a single class nothing is left, and its gradient would not be a number.
    others = logits.scatter(1, labels[:, None], torch.finfo(logits.dtype).min)
    return others.logsumexp(dim=1) - logits.gather(1, labels[:, None]).squeeze(1)


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns −log p_y of each sample, `(n,)`, with a gradient that is right however sure the model
    is.

    **Arguments:** as for `odds_against`.
    """
    return F.softplus(odds_against(logits, labels))
