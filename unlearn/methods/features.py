"""The output of a model's frozen first part, computed once and served in batches."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..core.batches import Loader, to_device
from ..core.memory import keep_freed_memory
from ..core.numerics import arithmetic
from ..core.seeds import stream
from ..training.loop import autocast
from ..training.predict import evaluating
from ..training.whole_image import whole_image_products


class FeatureLoader:
    """Batches of features and labels, in the order in which an `ArrayLoader` of the same seed has
    its images.
    """

    def __init__(self, features: Tensor, labels: Tensor, *, batch_size: int, shuffle: bool, seed: int) -> None:
        # Channels-last features are stored with the channels last, so that gathering a batch keeps
        # that layout.
        self._permuted = features.ndim == 4
        self.features = features.permute(0, 2, 3, 1).contiguous() if self._permuted else features
        self.labels = labels
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self._epoch = 0

    @property
    def dataset_size(self) -> int:
        """Rows in one pass."""
        return len(self.labels)

    def __len__(self) -> int:
        return math.ceil(self.dataset_size / self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """The next pass is pass number `epoch`."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        count = self.dataset_size
        order = torch.from_numpy(stream(self.seed, epoch).permutation(count)) if self.shuffle else torch.arange(count)
        order = order.to(self.features.device)
        for rows in order.split(self.batch_size):
            batch = self.features.index_select(0, rows)
            yield batch.permute(0, 3, 1, 2) if self._permuted else batch, self.labels.index_select(0, rows)


def room_for_features(device: torch.device) -> int:
    """Bytes that stored features may take:

    half of a GPU's free memory, or 2 GiB of the computer's.
    """
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 2 * 2**30


def compute(prefix: nn.Module, loader: Loader, device: torch.device, precision: str) -> tuple[Tensor, Tensor]:
    """The output of `prefix`, in evaluation mode, for one pass over `loader`, on `device`."""
    features, labels = [], []
    with (
        evaluating(prefix),
        arithmetic(precision),
        keep_freed_memory(),
        whole_image_products(prefix),
        torch.no_grad(),
    ):
        for batch in loader:
            images, classes = to_device(batch, device)
            with autocast(device, precision):
                features.append(prefix(images).float())
            labels.append(classes)
    return torch.cat(features), torch.cat(labels)
