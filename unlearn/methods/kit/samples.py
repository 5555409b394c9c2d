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
from ...data.augment import Draws, draw
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
        self,
        epoch: int,
        *,
        batch_size: int | None = None,
        labels: Tensor | None = None,
        shuffle: bool = True,
        plain: bool = False,
    ) -> Iterator[Batch]:
        """Pass number `epoch`.

        **Arguments:** `batch_size`: None for the method's own. `labels`: int64 `(size,)` by row, in
        place of the set's. `plain`: without augmentation.
        """
        size, augment = batch_size or self.batch_size, None if plain else self.augment
        passed: Iterator[tuple[Tensor, Tensor, Tensor]]
        if self.array is not None:
            array = self.array.replace(batch_size=size, shuffle=shuffle, augment=augment, seed=self.seed)
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
        """The first `count` samples of pass 0, as (images, labels), without augmentation."""
        taken: list[tuple[Tensor, Tensor]] = []
        for batch in self.batches(0, batch_size=min(256, count), plain=True):
            taken.append((batch.images[:count], batch.labels[:count]))
            count -= len(batch)
            if count <= 0:
                break
        return taken

    def at(self, rows: np.ndarray, draws: Draws | None, labels: Tensor | None = None) -> Batch:
        """The samples at `rows`, int64 `(n,)`, those of an `ArrayLoader` augmented by `draws`.

        **Arguments:** `labels`: int64 `(size,)` by row, in place of the set's.
        """
        where = torch.from_numpy(rows).to(self.device)
        if self.array is not None:
            places = torch.from_numpy(self.array.indices[rows]).to(self.device)
            images, own = self.array.of_rows(places, None if draws is None else draws.to(self.device))
        else:
            images, own = (kept.index_select(0, where) for kept in self.kept)
        given = own if labels is None else labels.index_select(0, where)
        return Batch(images, given, where, torch.full_like(own, self.part == "forget", dtype=torch.bool), self.part)

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
    """One pass over both sets in one shuffled order; each is normalised and augmented as by itself.

    **Arguments:** `forget_labels`: int64 `(forget.size,)` by row, in place of the forget set's own.
    """
    size, total = batch_size or retain.batch_size, forget.size + retain.size
    random = stream(retain.seed, epoch)
    order = random.permutation(total)
    draws = {name: draw(random, total, name) for name in dict.fromkeys((retain.augment, forget.augment)) if name}
    sets = ((forget, 0, forget_labels), (retain, forget.size, None))
    for start in range(0, total, size):
        places = order[start : start + size]
        parts, found = [], []
        for samples, first, labels in sets:
            mine = np.flatnonzero((places >= first) & (places < first + samples.size))
            if len(mine):
                drawn = draws[samples.augment][torch.from_numpy(start + mine)] if samples.augment else None
                parts.append(samples.at(places[mine] - first, drawn, labels))
                found.append(mine)
        yield _joined(parts, torch.from_numpy(np.argsort(np.concatenate(found))).to(retain.device))


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
        yield _joined([part for part in parts if part is not None])


def _joined(parts: list[Batch], order: Tensor | None = None) -> Batch:
    """The samples of all parts, in `order`."""

    def joined(name: str) -> Tensor:
        together = torch.cat([getattr(part, name) for part in parts])
        # Indexing keeps channels-last memory, which `index_select` does not.
        return together if order is None else together[order]

    return Batch(joined("images"), joined("labels"), joined("rows"), joined("forgotten"), "mixed")
