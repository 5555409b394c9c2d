"""Sums of x xᵀ over the input vectors of one layer, batch after batch.

Products are taken in float32 over a bounded number of vectors and summed in float64. The number is
small enough that rounding stays under 1e-6 of the sum, and large enough to run at the speed of
float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from ..models.layers import weight_matrix_shape
from .eigen import eigh

# Vectors in one float32 product. Rounding grows with it: at 8,192 it is some 2e-7 of the sum.
CHUNK = 8_192
# Bytes of a buffer of vectors, where the dimensions are not so many that it must be larger to be
# worth a product.
_BUFFER_BYTES = 32 * 2**20
# Least width of the blocks of which only the upper triangle is computed.
_LEAST_BLOCK = 512


@dataclass(frozen=True)
class ThinMoment:
    """Σ sign_i x_i x_iᵀ of fewer vectors than dimensions, kept as those vectors.

    **Arguments:** `rows`: float32 `(m, d)`; `signs`: float32 `(m,)` of ±1, −1 for what was
    subtracted.
    """

    rows: Tensor
    signs: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(groups, d, d) of the matrix that this stands for."""
        return 1, self.rows.shape[1], self.rows.shape[1]

    def dense(self) -> Tensor:
        """Returns the matrix, float64 `(1, d, d)`."""
        matrix = self.rows.new_zeros(self.shape, dtype=torch.float64)
        for sign in (1.0, -1.0):
            for rows in self.rows[self.signs == sign].split(CHUNK):
                add_gram(matrix[0], rows, sign)
        return mirror(matrix)

    def eigen(self) -> tuple[Tensor, Tensor]:
        """Returns the eigenvalues that are not nought, float64 `(r,)` falling, and vectors, float32
        `(d, r)`.

        By the m×m side: let K = X Xᵀ = V D Vᵀ. The columns of Q = Xᵀ V D^(−1/2) are orthonormal,
        and Xᵀ S X = Q (D^(1/2) Vᵀ S V D^(1/2)) Qᵀ.
        """
        count, size = self.rows.shape
        if count == 0:
            return self.rows.new_zeros(0, dtype=torch.float64), self.rows.new_zeros(size, 0)
        parts = self.rows.split(CHUNK // 8, dim=1)
        gram = sum(part.double() @ part.double().T for part in parts)
        assert isinstance(gram, Tensor)
        values, vectors = eigh(gram)
        kept = values > values[-1].clamp(min=0.0) * max(gram.shape) * torch.finfo(torch.float64).eps
        values, vectors = values[kept], vectors[:, kept]
        weights = vectors / values.sqrt()
        if bool((self.signs < 0).any()):
            half = vectors * values.sqrt()
            values, turn = eigh(half.T @ (self.signs.double()[:, None] * half))
            weights = weights @ turn
        columns = torch.cat([(part.double().T @ weights).float() for part in parts])
        return values.flip(0), columns.flip(1)

    def rotated(self) -> ThinMoment:
        """Returns the same matrix as √|λ|·eigenvectors:

        what is stored holds no single sample's activations.
        """
        values, vectors = self.eigen()
        return ThinMoment((vectors.double() * values.abs().sqrt()).T.float().contiguous(), values.sign().float())


def add_gram(matrix: Tensor, rows: Tensor, sign: float = 1.0) -> None:
    """Adds sign·rowsᵀ rows to the upper triangle of blocks of `matrix` `(d, d)`, in place (see
    `mirror`).
    """
    for start, stop in _blocks(matrix.shape[-1]):
        product = rows[:, start:stop].T @ rows[:, start:]
        matrix[start:stop, start:].add_(product, alpha=sign)


def mirror(matrix: Tensor) -> Tensor:
    """Fills what `add_gram` left out of `(groups, d, d)`, in place, and returns it."""
    for start, stop in _blocks(matrix.shape[-1]):
        matrix[:, stop:, start:stop] = matrix[:, start:stop, stop:].transpose(1, 2)
    return matrix


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    width = max(_LEAST_BLOCK, -(-size // 8))
    return ((start, min(start + width, size)) for start in range(0, size, width))


class Accumulator(Protocol):
    """Takes the inputs of one layer and gives their second moment."""

    def add(self, inputs: Tensor) -> None:
        """Adds one batch of inputs of the layer."""
        ...

    def finish(self) -> Tensor | ThinMoment:
        """Returns the sum, float64 `(groups, d, d)`, or the vectors themselves where those are
        fewer than d.
        """
        ...


class RowSum:
    """Sum over vectors that are given as rows: linear layers, and what `PatchSum` unfolds."""

    def __init__(self, groups: int, size: int, device: torch.device) -> None:
        self.groups, self.size, self.device = groups, size, device
        self.room = max(size, min(CHUNK, _BUFFER_BYTES // (4 * size * groups)))
        self.buffer: Tensor | None = None
        self.filled = 0
        self.matrix: Tensor | None = None

    def add(self, inputs: Tensor) -> None:
        """Adds rows `(…, groups·d)`, features of a group side by side."""
        for rows in inputs.reshape(-1, self.groups, self.size).split(self.room):
            if self.filled + len(rows) > self.room:
                self._flush()
            if self.buffer is None:
                self.buffer = rows.new_empty(self.room, self.groups, self.size)
            self.buffer[self.filled : self.filled + len(rows)] = rows
            self.filled += len(rows)

    def _flush(self) -> None:
        if self.matrix is None:
            self.matrix = torch.zeros(self.groups, self.size, self.size, dtype=torch.float64, device=self.device)
        if self.buffer is not None:
            for group in range(self.groups):
                for rows in self.buffer[: self.filled, group].split(CHUNK):
                    add_gram(self.matrix[group], rows)
        self.filled = 0

    def finish(self) -> Tensor | ThinMoment:
        """See `Accumulator`."""
        if self.matrix is None and self.buffer is not None and self.groups == 1 and self.filled < self.size:
            rows = self.buffer[: self.filled, 0].clone()
            self.buffer = None
            return ThinMoment(rows.float(), rows.new_ones(len(rows), dtype=torch.float32))
        self._flush()
        self.buffer = None
        assert self.matrix is not None
        return mirror(self.matrix)


class PatchSum:
    """Sum over convolution patches, copied out a bounded number at a time:

    any stride, padding, dilation and groups.
    """

    def __init__(self, layer: nn.Conv2d, device: torch.device) -> None:
        self.layer = layer
        self.taps = layer.kernel_size[0] * layer.kernel_size[1]
        groups, _, size = weight_matrix_shape(layer)
        self.rows = RowSum(groups, size, device)

    def add(self, inputs: Tensor) -> None:
        """Adds images `(n, C, H, W)`, before padding."""
        layer, groups = self.layer, self.layer.groups
        padded = pad(inputs, layer).permute(0, 2, 3, 1).contiguous()
        (kh, kw), (dh, dw), (sh, sw) = layer.kernel_size, layer.dilation, layer.stride
        height, width = (padded.shape[1] - dh * (kh - 1) - 1) // sh + 1, (padded.shape[2] - dw * (kw - 1) - 1) // sw + 1
        channels = padded.shape[3] // groups
        for part in padded.split(max(1, self.rows.room // max(1, height * width))):
            image, row, column, channel = part.stride()
            windows = part.as_strided(
                (len(part), height, width, groups, kh, kw, channels),
                (image, row * sh, column * sw, channel * channels, row * dh, column * dw, channel),
                part.storage_offset(),
            )
            self.rows.add(windows.reshape(-1, groups * kh * kw * channels))

    def finish(self) -> Tensor | ThinMoment:
        """See `Accumulator`.

        Patches were read taps first, channels within; a weight has channels first.
        """
        total = self.rows.finish()
        size = self.rows.size
        if isinstance(total, ThinMoment):
            rows = total.rows.view(-1, self.taps, size // self.taps).transpose(1, 2).reshape(-1, size)
            return ThinMoment(rows, total.signs)
        if self.taps == 1:
            return total
        order = torch.arange(size, device=total.device).view(self.taps, -1).T.reshape(-1)
        return total[:, order][:, :, order]


def pad(images: Tensor, layer: nn.Conv2d) -> Tensor:
    """Returns images with the layer's own padding around them."""
    amounts = layer._reversed_padding_repeated_twice
    if not any(amounts):
        return images
    mode = {"zeros": "constant"}.get(layer.padding_mode, layer.padding_mode)
    return functional.pad(images, amounts, mode=mode)


def combine(first: Tensor | ThinMoment, second: Tensor | ThinMoment, sign: int = 1) -> Tensor | ThinMoment:
    """Returns first + sign·second, thin where the vectors of both are still fewer than the
    dimensions.
    """
    if isinstance(first, ThinMoment) and isinstance(second, ThinMoment) and _stays_thin(first, second):
        rows, signs = second.rows.to(first.rows.device), second.signs.to(first.rows.device)
        return ThinMoment(torch.cat([first.rows, rows]), torch.cat([first.signs, sign * signs]))
    left, right = (part.dense() if isinstance(part, ThinMoment) else part for part in (first, second))
    return torch.add(left, right.to(left.device), alpha=sign)


def _stays_thin(first: ThinMoment, second: ThinMoment) -> bool:
    return len(first.rows) + len(second.rows) < first.shape[1]
