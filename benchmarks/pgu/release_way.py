"""Projected-gradient unlearning the plain way, as research code does it, to measure against.

Images come through a `DataLoader` of Pillow images, every convolution is unfolded, second moments are summed in float64,
both full and retain moments go through a full SVD, the projector is dense, the loss is a loop over samples, and the
retain set is evaluated after every epoch: what the published release does, without what else it does (its unfolding at
stride 1 of strided layers, its files).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

Batches = Iterable[tuple[Tensor, Tensor]]


def moments(model: nn.Module, loader: Batches) -> dict[str, Tensor]:
    """Σ x xᵀ of every convolution and linear layer without groups, float64 `(d, d)`, from unfolded patches."""
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            if isinstance(module, nn.Conv2d):
                assert not isinstance(module.padding, str)
                x = functional.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
                x = x.transpose(1, 2).reshape(-1, x.shape[1])
            x = x.double()
            sums[name] = sums[name] + x.T @ x if name in sums else x.T @ x

        return hook

    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [module.register_forward_pre_hook(watch(name)) for name, module in layers]
    model.eval()
    with torch.no_grad():
        for images, _ in loader:
            model(images)
    for handle in handles:
        handle.remove()
    return sums


def projectors(sums: dict[str, Tensor], gamma: float) -> dict[str, Tensor]:
    """M Mᵀ of every layer, float32 `(d, d)`."""
    found = {}
    for name, matrix in sums.items():
        u, values, _ = torch.linalg.svd(matrix)
        s = values.sqrt()
        k = int((s.cumsum(0) / s.sum() <= gamma).sum())
        found[name] = (u[:, :k] @ u[:, :k].T).float()
    return found


def accuracy(model: nn.Module, loader: Batches) -> float:
    """Share of the images whose largest logit is their label's."""
    model.eval()
    right = count = 0
    with torch.no_grad():
        for images, labels in loader:
            right += int((model(images).argmax(1) == labels).sum())
            count += len(labels)
    return right / count


def unlearn(
    model: nn.Module,
    spaces: dict[str, Tensor],
    forget: Batches,
    retain: Batches,
    *,
    epochs: int,
    lr: float,
    final_lr: float,
    offset: float = 0.05,
    entropy_weight: float = 0.2,
) -> nn.Module:
    """Returns the unlearned model."""
    model = copy.deepcopy(model)
    for epoch in range(epochs):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()
        for images, labels in forget:
            model.zero_grad()
            logits = model(images)
            loss = torch.zeros(())
            for row, label in zip(logits, labels, strict=True):
                p = torch.softmax(row, dim=0)
                loss = loss - torch.log(1 - (p[label] - offset)) + entropy_weight * (p * p.log()).sum()
            (loss / len(labels)).backward()
            rate = lr * (final_lr / lr) ** (epoch / epochs)
            with torch.no_grad():
                for name, space in spaces.items():
                    weight = model.get_parameter(f"{name}.weight")
                    assert weight.grad is not None
                    gradient = weight.grad.reshape(len(weight), -1)
                    weight.sub_(rate * (gradient - gradient @ space).reshape(weight.shape))
        accuracy(model, forget)
        accuracy(model, retain)  # the retain set, in every epoch
    return model
