"""Which weights may move: masks by the size of a score, and the scores that methods use."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ...core.batches import Loader, device_of, to_device
from ...core.numerics import deterministic_convolutions, full_float32
from ...core.rounding import whole_part
from ...models.logits import classify
from ...training.predict import evaluating


def largest(scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Returns 1 for the ⌊share·P⌋ largest of all P scores together, 0 for the others.

    Of equal scores those that come first are taken, so that the number is exact.

    **Arguments:** `scores`: parameter name → a score of each weight. `share` in [0, 1].
    """
    together = torch.cat([score.detach().flatten().double() for score in scores.values()])
    wanted = whole_part(share * len(together))
    order = torch.argsort(together, descending=True, stable=True)[:wanted]
    chosen = torch.zeros_like(together, dtype=torch.bool)
    chosen[order] = True
    parts = chosen.split([score.numel() for score in scores.values()])
    return {
        name: part.view(score.shape).to(score.dtype) for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def smallest(score: Tensor, share: float) -> Tensor:
    """Returns where the round(share·n) smallest of n scores are, bool of the same shape.

    Of equal scores those that come first are taken.
    """
    order = torch.argsort(score.flatten(), stable=True)[: round(share * score.numel())]
    chosen = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    chosen[order] = True
    return chosen.view_as(score)


def summed_gradient(model: nn.Module, loader: Loader, loss: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
    """Returns the gradient of `loss` summed over the samples of `loader`, float64, in evaluation
    mode.

    It does not depend on the size of the batches, beyond rounding. The model is left untouched.

    **Arguments:** `loss`: logits `(n, classes)` and labels to the losses of the samples, `(n,)`.
    """
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in weights.items()}
    device = device_of(model)
    exact = torch.autocast(device.type, enabled=False)
    with evaluating(model), exact, full_float32(), deterministic_convolutions():
        for batch in loader:
            images, labels = to_device(batch, device)
            found = torch.autograd.grad(
                loss(classify(model, images), labels).sum(), list(weights.values()), allow_unused=True
            )
            for name, gradient in zip(weights, found, strict=True):
                if gradient is not None:
                    total[name] += gradient
    return total
