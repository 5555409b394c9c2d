"""Sets of samples that methods make passes over, and the ways in which passes over two sets are
combined.

An `ArrayLoader` is batched, shuffled and augmented anew on the device. Other loaders are taken as
they come; where a method needs to mix them or to look samples up, they are read once and kept.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.batches import Loader, to_device
from ...core.errors import UnlearnError
from ...core.seeds import stream
from ...data.loader import ArrayLoader

# Passes within a pass, where a small set goes round while a large one is passed over once, have
# numbers of their own.
_ROUNDS = 1_000_000


@dataclass(frozen=True)
class Batch:
    """Samples of one step.

    **Arguments:**

    - `images`: float32 `(n, …)`, normalised. `labels`: int64 `(n,)`.
    - `rows`: int64 `(n,)`, the place of each in the set that it comes from, by which stored values
        are looked up.
    - `forgotten`: bool `(n,)`, whether each is of the forget set.
    - `part`: `forget`, `retain`, or `mixed`.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    forgotten: Tensor
    part: str

    def __len__(self) -> int:
        return len(self.labels)


class Samples:
    """A set of samples, as the method's settings batch, shuffle and augment it.

    **Arguments:** `part` is `forget` or `retain`. `seed` names the order of each pass.
    """

    def __init__(
        self, loader: Loader, part: str, *, device: torch.device, batch_size: int, augment: str | None, seed: int
    ) -> None:
        self.loader, self.part, self.device = loader, part, device
        self.batch_size, self.augment, self.seed = batch_size, augment, seed
        self._kept: tuple[Tensor, Tensor] | None = None
        if isinstance(loader, ArrayLoader) and loader.dataset_size == 0:
            raise UnlearnError(f"{part}: the {part} set holds no images; give one or more")

    @property
    def array(self) -> ArrayLoader | None:
        """The loader, where it is an `ArrayLoader`."""
        return self.loader if isinstance(self.loader, ArrayLoader) else None

    @property
    def size(self) -> int:
        """The number of samples. Other loaders than `ArrayLoader` are read once for it."""
        return self.array.dataset_size if self.array is not None else len(self.kept[1])

    @property
    def kept(self) -> tuple[Tensor, Tensor]:
        """All images and labels on the device, without augmentation, in order of their rows."""
        if self._kept is None:
            parts = [to_device(batch, self.device) for batch in self.plain()]
            if not parts:
                raise UnlearnError(f"{self.part}: the {self.part} set holds no images; give one or more")
            self._kept = torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])
        return self._kept

    def plain(self, batch_size: int = 256) -> Loader:
        """One pass without augmentation, in order of rows, as (images, labels)."""
        if self.array is not None:
            return self.array.replace(batch_size=batch_size, shuffle=False, augment=None)
        if self._kept is not None:
            images, labels = self._kept
            return list(zip(images.split(batch_size), labels.split(batch_size), strict=True))
        return self.loader

    def batches(
        self, epoch: int, *, batch_size: int | None = None, labels: Tensor | None = None, shuffle: bool = True
    ) -> Iterator[Batch]:
        """Pass number `epoch`.

        **Arguments:** `batch_size`: None for the method's own. `labels`: int64 `(size,)` by row, in
        place of the set's.
        """
        size = batch_size or self.batch_size
        passed: Iterator[tuple[Tensor, Tensor, Tensor]]
        if self.array is not None:
            array = self.array.replace(batch_size=size, shuffle=shuffle, augment=self.augment, seed=self.seed)
            passed = array.batches(epoch)
        elif self.part == "forget" or self._kept is not None:
            passed = _of_kept(*self.kept, self._order(epoch, shuffle), size)
        else:
            passed = self._streamed(epoch)
        is_forget = self.part == "forget"
        for images, own, rows in passed:
            given = own if labels is None else labels.index_select(0, rows)
            yield Batch(images, given, rows, torch.full_like(own, is_forget, dtype=torch.bool), self.part)

    def first(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """The first `count` samples of pass 0, as (images, labels)."""
        taken: list[tuple[Tensor, Tensor]] = []
        for batch in self.batches(0, batch_size=min(256, count)):
            taken.append((batch.images[:count], batch.labels[:count]))
            count -= len(batch)
            if count <= 0:
                break
        return taken

    def only(self, keep: Tensor) -> Samples:
        """Returns the set of the samples for which `keep`, bool `(size,)` by row, is true.

        Its rows are counted anew.
        """
        chosen = keep.nonzero()[:, 0]
        part: Loader
        if self.array is not None:
            part = self.array.replace(indices=self.array.indices[chosen.cpu().numpy()])
        else:
            part = [(self.kept[0].index_select(0, chosen), self.kept[1].index_select(0, chosen))]
        options: dict[str, Any] = {"batch_size": self.batch_size, "augment": self.augment, "seed": self.seed}
        return Samples(part, self.part, device=self.device, **options)

    def rounds(self, epoch: int, *, batch_size: int | None = None, labels: Tensor | None = None) -> Iterator[Batch]:
        """Batches without end: pass after pass over the set, each in another order."""
        number = epoch
        while True:
            yield from self.batches(number, batch_size=batch_size, labels=labels)
            number += _ROUNDS

    def _order(self, epoch: int, shuffle: bool) -> Tensor:
        places = stream(self.seed, epoch).permutation(self.size) if shuffle else range(self.size)
        return torch.as_tensor(places, dtype=torch.int64, device=self.device)

    def _streamed(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        set_epoch = getattr(self.loader, "set_epoch", None)  # of a sampler that shuffles
        if set_epoch is not None:
            set_epoch(epoch)
        done = 0
        for batch in self.loader:
            images, labels = to_device(batch, self.device)
            yield images, labels, torch.arange(done, done + len(labels), device=self.device)
            done += len(labels)
        if not done:
            raise UnlearnError(f"{self.part}: the {self.part} set holds no images; give one or more")


def _of_kept(images: Tensor, labels: Tensor, order: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for rows in order.split(size):
        yield images.index_select(0, rows), labels.index_select(0, rows), rows


def other_labels(true: Tensor, num_classes: int, draw: np.random.Generator) -> Tensor:
    """Returns a class for each sample that is not its own, all others being equally likely."""
    # A step of 1 to C − 1 round the classes never ends where it began.
    steps = torch.as_tensor(draw.integers(1, num_classes, len(true)), device=true.device)
    return (true + steps) % num_classes


def mixed(
    forget: Samples,
    retain: Samples,
    epoch: int,
    *,
    forget_labels: Tensor | None = None,
    batch_size: int | None = None,
) -> Iterator[Batch]:
    """One pass over both sets in one shuffled order.

    **Arguments:** `forget_labels`: int64 `(forget.size,)` by row, in place of the forget set's own.
    """
    size, count = batch_size or retain.batch_size, forget.size
    if forget.array is not None and retain.array is not None and forget.array.images is retain.array.images:
        rows = torch.cat([torch.from_numpy(s.array.indices) for s in (forget, retain) if s.array is not None]).numpy()
        array = retain.array.replace(
            indices=rows, batch_size=size, shuffle=True, augment=retain.augment, seed=retain.seed
        )
        passed = array.batches(epoch)
    else:
        images, labels = (torch.cat(pair) for pair in zip(forget.kept, retain.kept, strict=True))
        order = torch.from_numpy(stream(retain.seed, epoch).permutation(len(labels))).to(retain.device)
        passed = _of_kept(images, labels, order, size)
    for images, labels, places in passed:
        forgotten = places < count
        places = torch.where(forgotten, places, places - count)
        if forget_labels is not None:
            own = forget_labels.index_select(0, torch.where(forgotten, places, 0))
            labels = torch.where(forgotten, own, labels)
        yield Batch(images, labels, places, forgotten, "mixed")


def paired(retain: Samples, forget: Samples, epoch: int) -> Iterator[tuple[Batch, Batch]]:
    """One pass over the retain set, each batch beside one of the forget set, which goes round as
    often as it takes.
    """
    yield from zip(retain.batches(epoch), forget.rounds(epoch), strict=False)


def together(sets: list[Samples], epoch: int, batch_size: int) -> Iterator[Batch]:
    """One pass over several sets at once: each batch has its share of every set, each sample comes
    once.

    **Arguments:** `batch_size`: samples of a batch of all sets together.
    """
    steps = max(1, math.ceil(sum(samples.size for samples in sets) / batch_size))
    passes = [samples.batches(epoch, batch_size=math.ceil(samples.size / steps)) for samples in sets]
    for parts in itertools.zip_longest(*passes):
        there = [part for part in parts if part is not None]
        yield Batch(
            images=torch.cat([part.images for part in there]),
            labels=torch.cat([part.labels for part in there]),
            rows=torch.cat([part.rows for part in there]),
            forgotten=torch.cat([part.forgotten for part in there]),
            part="mixed",
        )
