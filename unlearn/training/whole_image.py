"""Convolutions on images as small as one or two pixels a side, as one matrix product.

Deep in a network for small pictures every output pixel of a padded 3×3 convolution sees the whole
image. Most of the kernel lies on padding: five of nine products on 2×2, eight of nine on 1×1 are
with zeros. (ResNet-18 on 32×32 images ends with 2×2 and 1×1.) Where that is so the convolution is a
linear layer from image to image. Its weights are windows of the kernel, and no product is wasted.
Values and gradients are those of the convolution up to rounding. Taps that only ever meet padding
get a gradient of exactly zero, as they do from the convolution.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_IMAGES_A_WINDOW = 32  # with fewer, laying the windows out costs more than the products with zeros


@contextmanager
def whole_image_products(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Inside, the model's convolutions on such small images on the CPU are matrix products; others
    are untouched.
    """
    chosen = [module for module in model.modules() if wanted and _may_be_product(module)]
    for module in chosen:
        # a method, so that a copy made inside is its own
        module.forward = types.MethodType(_forward, module)
    try:
        yield
    finally:
        for module in chosen:
            del module.forward


def _may_be_product(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and type(module).forward is nn.Conv2d.forward
        and "forward" not in vars(module)
        and module.groups == 1
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and min(module.padding) > 0
    )


def _forward(self: nn.Conv2d, images: Tensor) -> Tensor:
    windows = _windows(self, images) if images.ndim == 4 and images.device.type == "cpu" else None
    if windows is None or len(images) < _IMAGES_A_WINDOW * len(windows[0]) * len(windows[1]):
        return nn.Conv2d.forward(self, images)
    (rows, columns), (height, width) = windows, images.shape[2:]
    # (pixel, out, height, width, in): of each output pixel, the part of the kernel that lies on the
    # image
    parts = [(slice(row, row + height), slice(column, column + width)) for row in rows for column in columns]
    weights = _Windows.apply(self.weight, parts)
    bias = None if self.bias is None else self.bias.repeat(len(parts))
    pixels = F.linear(images.permute(0, 2, 3, 1).flatten(1), weights.flatten(2).flatten(0, 1), bias)
    return pixels.view(len(images), len(rows), len(columns), -1).permute(0, 3, 1, 2)


class _Windows(torch.autograd.Function):
    """Windows of a kernel `(out, in, k, k)`, one above the other: `(windows, out, height, width,
    in)`.

    Autograd's own backward pass would fill a whole kernel with zeros for every window; this one
    fills one.
    """

    @staticmethod
    def forward(ctx: Any, kernel: Tensor, parts: list[tuple[slice, slice]]) -> Tensor:
        ctx.parts, ctx.like = parts, kernel
        return torch.stack([kernel[:, :, rows, columns].permute(0, 2, 3, 1) for rows, columns in parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = torch.zeros_like(ctx.like)
        for (rows, columns), gradient in zip(ctx.parts, gradients[0], strict=True):
            total[:, :, rows, columns] += gradient.permute(0, 3, 1, 2)
        return total, None


def _windows(layer: nn.Conv2d, images: Tensor) -> tuple[list[int], list[int]] | None:
    """First kernel row for each row of output pixels, and the same for columns; None where some
    sees less than all.
    """
    assert not isinstance(layer.padding, str)
    found = []
    for size, kernel, stride, padding in zip(
        images.shape[2:], layer.kernel_size, layer.stride, layer.padding, strict=True
    ):
        outputs = (size + 2 * padding - kernel) // stride + 1
        first = [padding - output * stride for output in range(outputs)]
        if not first or first[-1] < 0 or first[0] + size > kernel:
            return None
        found.append(first)
    return found[0], found[1]
