"""Second moments of the patches of a stride-1 convolution, without building the patches.

The patch matrix of a k×k convolution holds every pixel k² times. The blocks of its second moment
are products of the image with a shifted copy of itself. There are only k·(2k − 1) shifts, not k⁴
blocks. All of them together are what a convolution's weight gradient computes, of the image with
itself as the output's gradient. There are fast kernels for it. What a tap does not meet at the
border is taken off exactly, row by row and column by column.

A strided convolution has so few patches that copying them out costs no more. One of few channels
has shifts that are products too thin to be fast. Both are left to `PatchSum`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from ..models.layers import weight_matrix_shape
from .sums import CHUNK, PatchSum, ThinMoment, pad

# Positions in one float32 weight gradient. Those kernels sum serially, so rounding grows faster
# with it than in a matrix product. At 2,048 it stays under 2e-7 of the sum; shorter ones are
# slower.
POSITIONS = 2_048
LEAST_CHANNELS = 16

# A rectangle of pixels (rows, columns; None for all) and a shift: what is taken off a block.
_Strip = tuple[int | None, int | None, int, int]


def can_shift(layer: nn.Conv2d) -> bool:
    """Whether `ShiftSum` is for this layer:

    stride 1, a kernel larger than 1×1, any padding, dilation and groups.
    """
    plain = tuple(layer.stride) == (1, 1) and tuple(layer.kernel_size) != (1, 1)
    return plain and layer.in_channels // layer.groups >= LEAST_CHANNELS


class ShiftSum:
    """Sum over the patches of a stride-1 convolution, by shifts of the image.

    While there are fewer patches than dimensions the images are kept: should it stay so, the
    patches themselves are the smaller side.
    """

    def __init__(self, layer: nn.Conv2d, device: torch.device) -> None:
        self.layer, self.device = layer, device
        self.sizes: dict[tuple[int, int], _OneSize] = {}
        self.waiting: list[Tensor] = []
        # seen while waiting; None: no longer waiting
        self.patches: int | None = 0 if layer.groups == 1 else None

    def add(self, inputs: Tensor) -> None:
        """Adds images `(n, C, H, W)`, before padding."""
        if self.patches is None:
            self._sum(inputs)
            return
        self.patches += len(inputs) * _outputs(self.layer, inputs)
        if self.patches < weight_matrix_shape(self.layer)[2]:
            self.waiting.append(inputs.clone())
            return
        self.patches = None
        for images in (*self.waiting, inputs):
            self._sum(images)
        self.waiting = []

    def _sum(self, inputs: Tensor) -> None:
        layer = self.layer
        plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        images = inputs if plain else pad(inputs, layer)
        top, left = (int(p) for p in layer.padding) if plain else (0, 0)
        height, width = images.shape[2:]
        if (height, width) not in self.sizes:
            self.sizes[height, width] = _OneSize(layer, _Grid(layer, height, width, top, left), self.device)
        one = self.sizes[height, width]
        for part in images.split(max(1, POSITIONS // (height * width))):
            one.add_shifts(part)
        for part in images.split(max(1, CHUNK // max(height, width))):
            one.add_strips(part)

    def finish(self) -> Tensor | ThinMoment:
        """Returns the sum, float64 `(groups, d, d)`, or the patches where those are fewer than
        d."""
        if self.patches is not None:
            rows = PatchSum(self.layer, self.device)
            for images in self.waiting:
                rows.add(images)
            return rows.finish()
        groups, _, size = weight_matrix_shape(self.layer)
        total = torch.zeros(groups, size, size, dtype=torch.float64, device=self.device)
        for one in self.sizes.values():
            one.add_to(total)
        return total


def _outputs(layer: nn.Conv2d, inputs: Tensor) -> int:
    """Output positions of one image."""
    found = 1
    for axis, size in enumerate(inputs.shape[2:]):
        before, after = layer._reversed_padding_repeated_twice[2 - 2 * axis : 4 - 2 * axis]
        found *= size + before + after - layer.dilation[axis] * (layer.kernel_size[axis] - 1)
    return found


@dataclass(frozen=True)
class _Grid:
    """Which pixels the taps of a convolution meet in images of one size."""

    layer: nn.Conv2d
    height: int
    width: int
    top: int
    left: int

    def missing(self, tap: int, axis: int) -> list[int]:
        """Rows (axis 0) or columns (axis 1) that a tap never meets; it starts at its offset less
        the padding.
        """
        size, padding = ((self.height, self.top), (self.width, self.left))[axis]
        kernel, dilation = self.layer.kernel_size[axis], self.layer.dilation[axis]
        outputs = size + 2 * padding - dilation * (kernel - 1)
        first = tap * dilation - padding
        return [u for u in range(size) if not first <= u < first + outputs]

    def strips(self, i: int, j: int, a: int, b: int) -> list[tuple[float, _Strip]]:
        """What to add to the total of shift (a, b) for the block of taps (i, j) and (i + a, j + b),
        with its sign.

        Tap (i, j) meets all pixels but certain rows and columns: total − rows − columns + their
        corners. A strip whose shifted partner lies outside the image is nought and left out.
        """
        dh, dw = self.layer.dilation
        rows = [u for u in self.missing(i, 0) if 0 <= u + a * dh < self.height]
        columns = [v for v in self.missing(j, 1) if 0 <= v + b * dw < self.width]
        return [
            *((-1.0, (u, None, a, b)) for u in rows),
            *((-1.0, (None, v, a, b)) for v in columns),
            *((1.0, (u, v, a, b)) for u in rows for v in columns),
        ]


class _OneSize:
    """The totals of all shifts, and the strips to take off, over images of one size."""

    def __init__(self, layer: nn.Conv2d, grid: _Grid, device: torch.device) -> None:
        self.layer, self.grid = layer, grid
        self.kh, self.kw = layer.kernel_size
        self.channels = layer.in_channels // layer.groups
        shape = (layer.in_channels, self.channels, self.kh, 2 * self.kw - 1)
        self.totals = torch.zeros(shape, dtype=torch.float64, device=device)
        # Blocks on and above the diagonal: the second tap comes no earlier than the first.
        taps = [(i, j) for i in range(self.kh) for j in range(self.kw)]
        self.blocks = [
            (first, second, grid.strips(*taps[first], taps[second][0] - taps[first][0], taps[second][1] - taps[first][1]))
            for first in range(len(taps))
            for second in range(first, len(taps))
        ]  # fmt: skip
        self.taps = taps
        block = (layer.groups, self.channels, self.channels)
        needed = {strip for _, _, strips in self.blocks for _, strip in strips}
        self.strips = {strip: torch.zeros(block, dtype=torch.float64, device=device) for strip in needed}

    def add_shifts(self, images: Tensor) -> None:
        dh, dw = self.layer.dilation
        below, beside = dh * (self.kh - 1), dw * (self.kw - 1)
        padded = functional.pad(images, (0, 0, 0, below))
        height, width = images.shape[2:]
        # An image of more positions than one sum may have goes band by band, each beside the rows
        # that its shifts reach.
        band = -(-height // -(-height * width // POSITIONS))
        for top in range(0, height, band):
            own = images[:, :, top : top + band]
            # The gradient of weight (p, q, a, b) is Σ grad_p(u, v) input_q(u + a·dh, v + b·dw −
            # beside): all shifts at once.
            _, totals, _ = torch.ops.aten.convolution_backward(
                own, padded[:, :, top : top + own.shape[2] + below], images.new_empty(self.totals.shape), None, [1, 1],
                [0, beside], [dh, dw], False, [0, 0], self.layer.groups, [False, True, False],
            )  # fmt: skip
            self.totals += totals

    def add_strips(self, images: Tensor) -> None:
        for strip, total in self.strips.items():
            total += self._strip(images, strip)

    def _strip(self, images: Tensor, strip: _Strip) -> Tensor:
        """Σ A(u, v) A(u + a·dh, v + b·dw)ᵀ over one row, one column or one pixel, `(groups, c,
        c)`."""
        row, column, a, b = strip
        down, right = a * self.layer.dilation[0], b * self.layer.dilation[1]
        top, bottom = (
            (row, row + 1) if row is not None else (max(0, -down), min(self.grid.height, self.grid.height - down))
        )
        left, end = (
            (column, column + 1)
            if column is not None
            else (max(0, -right), min(self.grid.width, self.grid.width - right))
        )
        if bottom <= top or end <= left:
            return images.new_zeros(self.layer.groups, self.channels, self.channels)
        pixels = images.permute(0, 2, 3, 1)
        own = pixels[:, top:bottom, left:end]
        partner = pixels[:, top + down : bottom + down, left + right : end + right]
        shape = (-1, self.layer.groups, self.channels)
        return torch.bmm(own.reshape(shape).permute(1, 2, 0), partner.reshape(shape).transpose(0, 1))

    def add_to(self, matrix: Tensor) -> None:
        """Adds the patches' second moment to `(groups, d, d)`."""
        groups, channels, taps = self.layer.groups, self.channels, len(self.taps)
        view = matrix.view(groups, channels, taps, channels, taps)
        totals = self.totals.view(groups, channels, channels, self.kh, 2 * self.kw - 1)
        for first, second, strips in self.blocks:
            (i, j), (p, q) = self.taps[first], self.taps[second]
            block = totals[..., p - i, q - j + self.kw - 1].clone()
            for sign, strip in strips:
                block.add_(self.strips[strip], alpha=sign)
            view[:, :, first, :, second] += block
            if first != second:
                view[:, :, second, :, first] += block.transpose(1, 2)
