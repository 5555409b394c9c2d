"""The loader of the fast path: images stay uint8 on the device and each batch is made there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.seeds import check_seed, stream
from .augment import Draws, check_augment, crop_flip, draw
from .images import as_tensor


class ArrayLoader:
    """Batches of normalised images from uint8 arrays; an iterable that can be passed over again and
    again.

    Pass `e` draws its order, crops and flips from `(seed, e)` alone, on the CPU. So it is the same
    on every device. No global generator is read or touched. The last batch holds what is left and
    may be short.

    **Arguments:**

    - `images`: uint8 `(n, height, width, channels)`, a NumPy array or a tensor; a tensor already on
        `device` is shared between loaders, an array is moved there once.
    - `labels`: int64 `(n,)`.
    - `indices`: rows to take, in this order where `shuffle` is off; None takes all.
    - `mean`, `std`: one number a channel, in [0, 1].
    - `batch_size`: images a batch.
    - `shuffle`: a fresh permutation for every pass.
    - `augment`: None, "flip" or "crop_flip"; see `unlearn.data.augment`.
    - `seed`: names the random streams.
    - `device`: where batches are made.

    **Yields:** `(images, labels)`: float32 `(b, channels, height, width)`, channels-last in memory,
    and int64 `(b,)`.

    Raises `ValueError` for arrays or options that are not allowed.
    """

    def __init__(
        self,
        images: np.ndarray | Tensor,
        labels: np.ndarray | Tensor,
        indices: np.ndarray | Tensor | Sequence[int] | None = None,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        shuffle: bool = False,
        augment: str | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.images = (images if isinstance(images, Tensor) else as_tensor(images)).to(self.device)
        self.labels = (labels if isinstance(labels, Tensor) else as_tensor(np.asarray(labels))).to(self.device)
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"images: {self.images.dtype} of shape {tuple(self.images.shape)} is not allowed; "
                "give uint8 of shape (n, height, width, channels)"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels: {self.labels.dtype} of shape {tuple(self.labels.shape)} is not allowed; "
                f"give int64 of shape ({len(self.images)},)"
            )
        rows = np.arange(len(self.images)) if indices is None else np.asarray(indices)
        if rows.ndim != 1 or (
            rows.size and (rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= len(self.images))
        ):
            raise ValueError(f"indices: give row numbers from 0 to {len(self.images) - 1}")
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ValueError(f"batch_size: {batch_size!r} is not allowed; give an integer of 1 or more")
        channels = self.images.shape[3]
        if len(mean) != channels or len(std) != channels or min(std) <= 0:
            raise ValueError(f"mean, std: {mean!r}, {std!r}; give {channels} numbers each, deviations above 0")
        self.indices = rows.astype(np.int64)
        self.mean, self.std = tuple(mean), tuple(std)
        self.batch_size, self.shuffle = int(batch_size), shuffle
        self.augment, self.seed = check_augment(augment), check_seed(seed)
        # One number a channel, repeated to the size of an image: arithmetic on runs of three
        # numbers is slow.
        self._mean, self._std = (
            torch.tensor(numbers, dtype=torch.float32, device=self.device).expand(self.images.shape[1:]).contiguous()
            for numbers in (self.mean, self.std)
        )
        self._epoch = 0

    def replace(self, **changes: Any) -> ArrayLoader:
        """A loader over the same memory with other options, such as `replace(augment=None,
        shuffle=False)`.
        """
        options: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("indices", "mean", "std", "batch_size", "shuffle", "augment", "seed", "device")
        }
        return ArrayLoader(
            changes.pop("images", self.images), changes.pop("labels", self.labels), **{**options, **changes}
        )

    @property
    def dataset_size(self) -> int:
        """Images in one pass."""
        return len(self.indices)

    def __len__(self) -> int:
        return math.ceil(self.dataset_size / self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """The next pass is pass number `epoch`; later ones count on from there."""
        self._epoch = int(epoch)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 `(b, h, w, c)` to float32 `(b, c, h, w)`, channels-last; bits as of `ToTensor` and
        `Normalize`.
        """
        return images.to(torch.float32).div_(255).sub_(self._mean).div_(self._std).permute(0, 3, 1, 2)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        for images, labels, _ in self.batches(epoch):
            yield images, labels

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Pass number `epoch`, each batch with the places, int64 `(b,)`, that its images have in
        `indices`.
        """
        random = stream(self.seed, epoch)
        count = len(self.indices)
        places = random.permutation(count) if self.shuffle else np.arange(count)
        order = torch.from_numpy(self.indices[places]).to(self.device)
        where = torch.from_numpy(places).to(self.device)
        draws = draw(random, count, self.augment).to(self.device) if self.augment else None
        for start in range(0, count, self.batch_size):
            part = slice(start, start + self.batch_size)
            images, labels = self.of_rows(order[part], None if draws is None else draws[part])
            yield images, labels, where[part]

    def of_rows(self, rows: Tensor, draws: Draws | None) -> tuple[Tensor, Tensor]:
        """Normalised images and labels of `rows`, int64 `(b,)` on the device, augmented by
        `draws`."""
        images = self.images.index_select(0, rows)
        if draws is not None:
            images = crop_flip(images, draws)
        return self.normalise(images), self.labels.index_select(0, rows)
