"""Projected-gradient unlearning written from its formulas in float64, slowly: patches are built, spaces are dense.

Nothing of the package is used, so that agreement means something. Models are evaluated and trained by autograd alone.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


def patches(inputs: Tensor, layer: nn.Module) -> Tensor:
    """Input vectors of a layer, float64 `(groups, vectors, d)`, one for each sample and output position."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(1, -1, inputs.shape[-1]).double()
    assert isinstance(layer, nn.Conv2d)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = functional.pad(inputs.double(), layer._reversed_padding_repeated_twice, mode=mode)
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    per_group = x.shape[1] // layer.groups
    found = []
    for top in range(0, x.shape[2] - dh * (kh - 1), sh):
        for left in range(0, x.shape[3] - dw * (kw - 1), sw):
            window = x[:, :, top : top + dh * (kh - 1) + 1 : dh, left : left + dw * (kw - 1) + 1 : dw]
            found.append(window.reshape(len(x), layer.groups, per_group * kh * kw))
    return torch.cat(found).transpose(0, 1)


def moments(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Σ x xᵀ for every convolution and linear layer, float64 `(groups, d, d)`, from float64 activations."""
    wide = copy.deepcopy(model).double().eval()
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = patches(inputs[0], module)
            sums[name] = sums.get(name, 0) + x.transpose(1, 2) @ x

        return hook

    for name, module in wide.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        wide(images.double())
    return sums


def rank(values: Tensor, gamma: float, criterion: str) -> int:
    """k from eigenvalues `(d,)` in falling order, counted one by one."""
    values = values.clamp(min=0)
    weights = [math.sqrt(v) for v in values.tolist()] if criterion == "singular" else values.tolist()
    total, running, k = sum(weights), 0.0, 0
    if gamma == 1:
        return len(weights)
    for weight in weights:
        if criterion == "energy" and running >= gamma * total:
            break
        running += weight
        if criterion == "singular" and running > gamma * total:
            break
        k += 1
    return k


def projection(matrix: Tensor, gamma: float, criterion: str, extra: int = 0) -> Tensor:
    """M Mᵀ, dense, `(groups, d, d)`."""
    values, vectors = torch.linalg.eigh(matrix)
    result = torch.zeros_like(matrix)
    for group in range(len(matrix)):
        k = min(matrix.shape[-1], rank(values[group].flip(0), gamma, criterion) + extra)
        m = vectors[group].flip(1)[:, :k]
        result[group] = m @ m.T
    return result


def loss(logits: Tensor, labels: Tensor, offset: float, w1: float, w2: float, depoison: bool = False) -> Tensor:
    """The unlearning loss, sample by sample."""
    total = logits.new_zeros(())
    for row, label in zip(logits, labels.tolist(), strict=True):
        p = torch.softmax(row, dim=0)
        forget = -torch.log(1 - (p[label] - offset))
        if depoison:
            others = torch.softmax(torch.cat([row[:label], row[label + 1 :]]), dim=0)
            second = -(others * others.log()).sum()
        else:
            second = (p * p.log()).sum()
        total = total + w1 * forget + w2 * second
    return total / len(logits)


def freeze_norms(model: nn.Module) -> None:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()


def unlearn(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    projections: dict[str, Tensor],
    rates: list[float],
    *,
    offset: float = 0.05,
    w1: float = 1.0,
    w2: float = 0.2,
    batch_size: int | None = None,
) -> nn.Module:
    """One pass for each rate, W ← W − lr·(g − g M Mᵀ), on the layers that `projections` names."""
    wide = copy.deepcopy(model).double()
    freeze_norms(wide)
    for rate in rates:
        for start in range(0, len(images), batch_size or len(images)):
            part = slice(start, start + (batch_size or len(images)))
            wide.zero_grad()
            loss(wide(images[part].double()), labels[part], offset, w1, w2).backward()
            with torch.no_grad():
                for name, p in projections.items():
                    weight = wide.get_submodule(name).weight
                    gradient = weight.grad.reshape(len(p), -1, p.shape[-1])
                    weight -= rate * (gradient - gradient @ p).reshape(weight.shape)
    return wide


def depoison(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    cores: dict[str, Tensor],
    rates: list[float],
    *,
    offset: float = 0.1,
    w2: float = 0.2,
) -> nn.Module:
    """As `unlearn`, with the explicit scale: W_eff = W − W M Mᵀ + W M S Mᵀ, S learned by autograd with lr/10.

    `cores`: layer → M, float64 `(d, k)`; layers without groups only.
    """
    wide = copy.deepcopy(model).double()
    freeze_norms(wide)
    raw = {name: wide.get_submodule(name).weight.detach().clone() for name in cores}
    scales = {name: torch.eye(m.shape[1], dtype=torch.float64) for name, m in cores.items()}
    for rate in rates:
        w = {name: value.clone().requires_grad_() for name, value in raw.items()}
        s = {name: value.clone().requires_grad_() for name, value in scales.items()}
        effective = {}
        for name, m in cores.items():
            flat = w[name].reshape(len(w[name]), -1)
            effective[f"{name}.weight"] = (flat - flat @ m @ m.T + flat @ m @ s[name] @ m.T).reshape(w[name].shape)
        logits = torch.func.functional_call(wide, effective, (images.double(),))
        loss(logits, labels, offset, 1.0, w2, depoison=True).backward()
        for name, m in cores.items():
            flat = w[name].grad.reshape(len(w[name]), -1)
            raw[name] = raw[name] - rate * (flat - flat @ m @ m.T).reshape(raw[name].shape)
            scales[name] = scales[name] - rate / 10 * s[name].grad
    with torch.no_grad():
        for name, m in cores.items():
            flat = raw[name].reshape(len(raw[name]), -1)
            wide.get_submodule(name).weight.copy_(
                (flat - flat @ m @ m.T + flat @ m @ scales[name] @ m.T).reshape(raw[name].shape)
            )
    return wide
