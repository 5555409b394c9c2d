"""Random crop and horizontal flip of uint8 batches, on any device.

The distribution is that of torchvision's `RandomCrop(size, padding=4)` and `RandomHorizontalFlip()`
ahead of `ToTensor` and `Normalize`. Each of the (2·padding + 1)² offsets is equally likely. The
border is zero *before* normalisation. An image is mirrored with probability 1/2, independently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PADDING = 4
AUGMENTATIONS = (None, "flip", "crop_flip")


def check_augment(augment: str | None, field: str = "augment") -> str | None:
    """Returns `augment`. Raises `ValueError` where there is no such augmentation."""
    if augment not in AUGMENTATIONS:
        raise ValueError(f"{field}: {augment!r} is not allowed; allowed are null, flip and crop_flip")
    return augment


@dataclass(frozen=True)
class Draws:
    """One pass's random numbers.

    **Arguments:**

    - `offset`: int64 `(n, 2)`, vertical and horizontal, 0 to 2·PADDING; PADDING leaves an image
        where it is.
    - `flip`: bool `(n,)`.
    """

    offset: Tensor
    flip: Tensor

    def __getitem__(self, rows: slice | Tensor) -> Draws:
        return Draws(self.offset[rows], self.flip[rows])

    def to(self, device: torch.device) -> Draws:
        return Draws(self.offset.to(device), self.flip.to(device))


def draw(generator: np.random.Generator, count: int, augment: str) -> Draws:
    """Draws crop offsets and flips for `count` images; "flip" has all offsets in the middle."""
    if augment == "crop_flip":
        offset = generator.integers(0, 2 * PADDING + 1, size=(count, 2))
    else:
        offset = np.full((count, 2), PADDING)
    flip = generator.integers(0, 2, size=count).astype(bool)
    return Draws(torch.from_numpy(offset), torch.from_numpy(flip))


def crop_flip(images: Tensor, draws: Draws) -> Tensor:
    """Shifts and mirrors each image of a uint8 batch `(b, h, w, c)` by its own draws; pixels from
    outside are 0.
    """
    count, height, width, _ = images.shape
    device = images.device
    # (b, h): source row of each row
    rows = torch.arange(height, device=device) + (draws.offset[:, :1] - PADDING)
    columns = torch.arange(width, device=device).expand(count, width)
    # torchvision crops first and flips the crop, so the mirrored column is looked up in the crop.
    columns = torch.where(draws.flip[:, None], width - 1 - columns, columns) + (draws.offset[:, 1:] - PADDING)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = rows.clamp_(0, height - 1), columns.clamp_(0, width - 1)
    source = (torch.arange(count, device=device)[:, None] * height + rows)[:, :, None] * width + columns[:, None, :]
    pixels = images.reshape(count * height * width, -1).index_select(0, source.flatten()).view(images.shape)
    return pixels * inside[..., None]
