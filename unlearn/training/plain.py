"""The plain way to feed training, the reference:

Pillow images, torchvision transforms, a `DataLoader`.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..core._torchvision import load_torchvision
from ..data.augment import PADDING
from ..data.loader import ArrayLoader


class _PillowImages(Dataset[tuple[Tensor, int]]):
    """The images of an `ArrayLoader`, one by one, through the transforms that scripts commonly
    use."""

    def __init__(self, source: ArrayLoader) -> None:
        transforms = load_torchvision().transforms
        self.images, self.labels = source.images.cpu().numpy(), source.labels.cpu().numpy()
        self.rows = source.indices
        height, width = self.images.shape[1:3]
        steps: list[Any] = []
        if source.augment == "crop_flip":
            steps.append(transforms.RandomCrop((height, width), padding=PADDING))
        if source.augment in ("flip", "crop_flip"):
            steps.append(transforms.RandomHorizontalFlip())
        self.transform = transforms.Compose(
            [*steps, transforms.ToTensor(), transforms.Normalize(source.mean, source.std)]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = self.rows[index]
        pixels = self.images[row]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return self.transform(image), int(self.labels[row])


def plain_loader(source: ArrayLoader, num_workers: int = 0) -> DataLoader[tuple[Tensor, int]]:
    """A `DataLoader` with the data and options of `source`.

    It draws order, crops and flips from torch's global generator, so its random numbers are others
    than those of `source`, of the same distribution. Batches are contiguous NCHW on the CPU.
    """
    generator = None if num_workers == 0 else torch.Generator().manual_seed(source.seed)
    return DataLoader(
        _PillowImages(source),
        batch_size=source.batch_size,
        shuffle=source.shuffle,
        num_workers=num_workers,
        generator=generator,
    )
