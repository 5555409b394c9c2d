"""What the published release computes, written anew from its description: slowly, in float64, with nothing of the package.

Patches are unfolded at stride 1 whatever a convolution's stride, spaces come from a full singular value decomposition,
the first of the epochs only evaluates, and depoisoning learns an explicit scale by autograd.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

Batches = Iterable[tuple[Tensor, Tensor]]


def moments(model: nn.Module, batches: Batches) -> dict[str, Tensor]:
    """Σ x xᵀ of every convolution's unfolded patches and every linear layer's inputs, `(d, d)`."""
    wide = copy.deepcopy(model).double().eval()
    sums: dict[str, Tensor] = {}
    for name, module in wide.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue

        def watch(layer: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            rows = inputs[0]
            if isinstance(layer, nn.Conv2d):
                rows = functional.unfold(rows, layer.kernel_size, dilation=1, padding=layer.padding, stride=1)
                rows = rows.permute(0, 2, 1).reshape(-1, rows.shape[1])
            sums[name] = sums.get(name, 0) + rows.T @ rows

        module.register_forward_pre_hook(watch)
    with torch.no_grad():
        for images, _ in batches:
            wide(images.double())
    return sums


def spaces(matrices: dict[str, Tensor], gamma: float, *, below: bool = False, extra: int = 0) -> dict[str, Tensor]:
    """M of every layer: the first k left singular vectors, k counted over square roots of singular values."""
    found = {}
    for name, matrix in matrices.items():
        u, values, _ = torch.linalg.svd(matrix)
        shares = values.sqrt().cumsum(0) / values.sqrt().sum()
        found[name] = u[:, : int((shares < gamma if below else shares <= gamma).sum()) + extra]
    return found


def retained(full: dict[str, Tensor], forget: dict[str, Tensor]) -> dict[str, Tensor]:
    """G(D) put together again from its stored decomposition, less G(D_f)."""
    found = {}
    for name, matrix in full.items():
        u, values, _ = torch.linalg.svd(matrix)
        s = values.sqrt()
        found[name] = u @ torch.diag(s**2) @ u.T - forget[name]
    return found


def freeze_norms(model: nn.Module) -> None:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()


def unlearn(
    model: nn.Module, batches_of: Callable[[int], Batches], m: dict[str, Tensor], lr: float, end: float, epochs: int
) -> list[nn.Module]:
    """The model after each epoch, epoch 0 being the model as it was; w2 = 0.2 and an offset of 0.05."""
    wide = copy.deepcopy(model).double()
    rate, found = lr, []
    for epoch in range(epochs):
        freeze_norms(wide)
        for images, labels in batches_of(epoch) if epoch else ():
            wide.zero_grad()
            p = torch.softmax(wide(images.double()), dim=1)
            own = torch.stack([-torch.log(1 - (row[y] - 0.05)) for row, y in zip(p, labels, strict=True)])
            entropy = -torch.sum(-p * torch.log(p + 1e-15), dim=1)
            (own.sum() / len(labels) + 0.2 * entropy.mean()).backward()
            with torch.no_grad():
                for name, space in m.items():
                    weight = wide.get_submodule(name).weight
                    flat = weight.grad.reshape(len(weight), -1)
                    weight -= rate * (flat - flat @ (space @ space.T)).reshape(weight.shape)
        found.append(copy.deepcopy(wide))
        rate *= (end / lr) ** (1 / epochs)
    return found


def depoison(
    model: nn.Module,
    batches_of: Callable[[int], Batches],
    m: dict[str, Tensor],
    lr: float,
    end: float,
    epochs: int,
    scaled: int,
) -> nn.Module:
    """The model after the last epoch, its scale folded into the weights.

    Convolutions learn a scale for every core direction, linear layers for the last `scaled` of them.
    """
    wide = copy.deepcopy(model).double()
    raw = {name: wide.get_submodule(name).weight.detach().clone() for name in m}
    held = {
        name: max(0, space.shape[1] - scaled) if isinstance(wide.get_submodule(name), nn.Linear) else 0
        for name, space in m.items()
    }
    scale = {name: torch.eye(space.shape[1] - held[name], dtype=torch.float64) for name, space in m.items()}

    def effective(w: dict[str, Tensor], s: dict[str, Tensor]) -> dict[str, Tensor]:
        result = {}
        for name, space in m.items():
            flat = w[name].reshape(len(w[name]), -1)
            size = space.shape[1]
            whole = torch.diag((torch.arange(size) < held[name]).double())
            whole = whole + functional.pad(s[name], (held[name], 0, held[name], 0))
            result[f"{name}.weight"] = (flat + flat @ space @ whole @ space.T - flat @ space @ space.T).reshape(
                w[name].shape
            )
        return result

    rate = lr
    for epoch in range(epochs):
        freeze_norms(wide)
        for images, labels in batches_of(epoch) if epoch else ():
            w = {name: value.clone().requires_grad_() for name, value in raw.items()}
            s = {name: value.clone().requires_grad_() for name, value in scale.items()}
            logits = torch.func.functional_call(wide, effective(w, s), (images.double(),))
            total = logits.new_zeros(())
            for row, y in zip(logits, labels.tolist(), strict=True):
                total = total - torch.log(1 - (torch.softmax(row, 0)[y] - 0.1))
                others = torch.softmax(torch.cat([row[:y], row[y + 1 :]]), 0)
                total = total + 0.2 * torch.sum(-others * torch.log(others + 1e-10))
            (total / len(labels)).backward()
            for name, space in m.items():
                flat = w[name].grad.reshape(len(w[name]), -1)
                raw[name] = raw[name] - rate * (flat - flat @ (space @ space.T)).reshape(raw[name].shape)
                scale[name] = scale[name] - rate / 10 * s[name].grad
        rate *= (end / lr) ** (1 / epochs)
    with torch.no_grad():
        for name, value in effective(raw, scale).items():
            wide.get_parameter(name).copy_(value)
    return wide


def accuracy(model: nn.Module, batches: Batches) -> float:
    model.eval()
    with torch.no_grad():
        right = [(model(images.double()).argmax(1) == labels) for images, labels in batches]
    return float(torch.cat(right).double().mean())


def kept(gaps: list[float]) -> int:
    """The epoch whose model is kept, from validation less forget accuracy after each epoch; 0 is the model as it was."""
    previous: float | None = None
    for epoch, gap in enumerate(gaps):
        if gap > 0:
            assert previous is not None, "the gap is closed before the first pass: the release ends"
            return epoch if abs(gap) < abs(previous) else epoch - 1
        previous = gap
    return 0
