"""Gradients of single samples, many at a time (torch.func)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ..core.margins import cross_entropies
from ..models.logits import HALVES, fitting, logits_of

Gradients = dict[str, Tensor]
# A loss of one sample: logits `(classes,)` and label `()` to a scalar.
SampleLoss = Callable[[Tensor, Tensor], Tensor]

# Bytes of the gradients that are held at once.
_ROOM = 256 * 2**20


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """The loss −log p_y of one sample."""
    return cross_entropies(logits[None], label[None])[0]


def per_sample_gradients(
    model: nn.Module, images: Tensor, labels: Tensor, loss: SampleLoss = cross_entropy
) -> Iterator[Gradients]:
    """Yields the gradient of `loss` for every sample, some samples at a time, in order.

    The model must be in evaluation mode: in training mode normalisation mixes the samples of a
    batch.

    **Arguments:** `images` `(n, …)`, `labels` int64 `(n,)`.

    **Yields:** parameter name → `(samples, *shape)`, for the parameters that require gradients.
    """
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    others = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    others |= {name: b.detach() for name, b in model.named_buffers()}

    def of_one(parameters: Gradients, image: Tensor, label: Tensor) -> Tensor:
        logits = logits_of(functional_call(model, {**parameters, **others}, (image[None],)))
        return loss(logits[0], label)

    images = fitting(images, next(iter(weights.values()), None))
    gradient = grad(of_one)
    each = sum(w.numel() * w.element_size() for w in weights.values())
    chunk = max(1, _ROOM // max(1, each))
    for some, their in zip(images.split(chunk), labels.split(chunk), strict=True):
        try:
            found = vmap(gradient, in_dims=(None, 0, 0))(weights, some, their)
        except RuntimeError:
            # Some forward passes cannot be mapped (control flow on values). One sample at a time
            # gives the same.
            ones = [gradient(weights, image, label) for image, label in zip(some, their, strict=True)]
            found = {name: torch.stack([one[name] for one in ones]) for name in weights}
        yield {name: part.float() if part.dtype in HALVES else part for name, part in found.items()}
