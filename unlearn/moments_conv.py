"""Second moments of convolution patches, without building the patches where that is faster.

The patch matrix of a k×k convolution of stride 1 holds every pixel k² times, and most blocks of its second moment are
products of the image with a shifted copy of itself. Those are computed once for each shift, on a flat view of the
zero-padded image (a shift is then an offset, and nothing is copied); what a tap does not see at the border is taken off
exactly, by inclusion and exclusion of its missing rows and columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

# Below this many channels the products are too thin to be fast, and unfolding wins.
LEAST_CHANNELS = 16


def convolution_moments(images: Tensor, layer: nn.Conv2d, matrix: Tensor, chunk_rows: int) -> None:
    """Adds the second moment of `layer`'s input patches to `matrix`, float64 `(groups, d, d)`, in place.

    **Arguments:** `images`: float32 `(n, C, H, W)`, before padding. `chunk_rows`: patches in one float32 product.
    """
    if _can_shift(layer, images):
        positions = (images.shape[2] + layer.kernel_size[0] - 1) * (images.shape[3] + layer.kernel_size[1] - 1)
        for part in images.split(max(1, chunk_rows // positions)):
            matrix[0] += shifted_moments(
                part, layer.kernel_size[0], layer.kernel_size[1], int(layer.padding[0]), int(layer.padding[1])
            )
        return
    _unfolded(images, layer, matrix, chunk_rows)


def _can_shift(layer: nn.Conv2d, images: Tensor) -> bool:
    if layer.kernel_size == (1, 1) or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return False
    plain = layer.stride == (1, 1) and layer.dilation == (1, 1) and layer.groups == 1
    inside = all(p < k for p, k in zip(layer.padding, layer.kernel_size, strict=True))
    large = all(s >= 2 * k for s, k in zip(images.shape[2:], layer.kernel_size, strict=True))
    return plain and inside and large and layer.in_channels >= LEAST_CHANNELS


def _unfolded(images: Tensor, layer: nn.Conv2d, matrix: Tensor, chunk_rows: int) -> None:
    """The general case: any stride, padding, padding mode, dilation and groups, a bounded number of patches at a time."""
    padded = functional.pad(images, layer._reversed_padding_repeated_twice, mode=_PAD_MODES[layer.padding_mode])
    height, width = (
        (size - d * (k - 1) - 1) // s + 1
        for size, k, d, s in zip(padded.shape[2:], layer.kernel_size, layer.dilation, layer.stride, strict=True)
    )
    groups, channels = layer.groups, layer.in_channels // layer.groups
    for part in padded.split(max(1, chunk_rows // max(1, height * width))):
        patches = functional.unfold(part, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
        size = channels * layer.kernel_size[0] * layer.kernel_size[1]
        rows = patches.view(len(part), groups, size, -1).permute(1, 0, 3, 2).reshape(groups, -1, size)
        matrix += torch.bmm(rows.transpose(1, 2), rows)


_PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def shifted_moments(images: Tensor, kh: int, kw: int, ph: int, pw: int) -> Tensor:
    """Returns Σ patches patchᵀ of a stride-1, zero-padded kh×kw convolution, float32 `(C·kh·kw, C·kh·kw)`.

    Tap (i, j) of the patch at output (y, x) is the pixel (u, v) = (y + i − ph, x + j − pw). For taps (i, j) and
    (i + a, j + b) the block is Σ A(u, v) A(u + a, v + b)ᵀ over the pixels (u, v) that tap (i, j) meets: all pixels but
    the rows E_i and columns F_j that it never reaches. So it is T(a, b) − rows − columns + corners.
    """
    count, channels, height, width = images.shape
    # Each row and each image is followed by zeros, so that a shift never reaches into the next one.
    buffer = images.new_zeros(count, height + kh - 1, width + kw - 1, channels)
    buffer[:, :height, :width] = images.permute(0, 2, 3, 1)
    flat = buffer.view(-1, channels)
    stride = width + kw - 1
    missing_rows = [_missing(i, height, kh, ph) for i in range(kh)]
    missing_columns = [_missing(j, width, kw, pw) for j in range(kw)]

    totals: dict[tuple[int, int], Tensor] = {}
    for a in range(kh):
        for b in range(-(kw - 1) if a else 0, kw):
            offset = a * stride + b
            totals[a, b] = flat[: len(flat) - offset].T @ flat[offset:]

    result = images.new_empty(channels, kh * kw, channels, kh * kw)
    for first in range(kh * kw):
        i, j = divmod(first, kw)
        for second in range(first, kh * kw):
            a, b = second // kw - i, second % kw - j
            block = totals[a, b].clone()
            for u in missing_rows[i]:
                block -= _strip(buffer, slice(u, u + 1), slice(0, width), a, b, height, width)
            for v in missing_columns[j]:
                block -= _strip(buffer, slice(0, height), slice(v, v + 1), a, b, height, width)
                for u in missing_rows[i]:
                    block += _strip(buffer, slice(u, u + 1), slice(v, v + 1), a, b, height, width)
            result[:, first, :, second] = block
            result[:, second, :, first] = block.T
    return result.view(channels * kh * kw, channels * kh * kw)


def _missing(tap: int, size: int, kernel: int, padding: int) -> list[int]:
    """Pixel rows (or columns) that tap number `tap` never meets: it starts at tap − padding and has one output each."""
    outputs = size + 2 * padding - kernel + 1
    first = tap - padding
    return [u for u in range(size) if not first <= u < first + outputs]


def _strip(buffer: Tensor, rows: slice, columns: slice, a: int, b: int, height: int, width: int) -> Tensor:
    """Σ A(u, v) A(u + a, v + b)ᵀ over the pixels in `rows` × `columns` whose partner lies inside the image."""
    top, bottom = max(rows.start, -a), min(rows.stop, height - a)
    left, right = max(columns.start, -b), min(columns.stop, width - b)
    channels = buffer.shape[-1]
    if top >= bottom or left >= right:
        return buffer.new_zeros(channels, channels)
    own = buffer[:, top:bottom, left:right].reshape(-1, channels)
    partner = buffer[:, top + a : bottom + a, left + b : right + b].reshape(-1, channels)
    return own.T @ partner
