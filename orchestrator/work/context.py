"""What executing a unit needs: the store, the data, the device, and small caches that live as long
as the worker."""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypedDict, TypeVar, Unpack

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from unlearn import ArrayLoader, Graphs, build_model
from unlearn.data import as_tensor
from unlearn.methods.base import Needs, in_order
from unlearn.models.classes import drop_classes

from ..plan.data import ExperimentData
from ..plan.facts import ModelFacts, facts_of
from ..recipe.choices import Choice
from ..recipe.own_code import permit_code
from ..store import Attempt, Store
from .tensors import tensors_of

T = TypeVar("T")


class LoaderOptions(TypedDict, total=False):
    """Options of an `ArrayLoader` beside its images, labels and device."""

    shuffle: bool
    augment: str | None
    seed: int


class Context:
    """What executing a unit needs: the store, the data, the device, and small caches that live as
    long as the worker."""

    def __init__(
        self,
        store: Store | None,
        data: ExperimentData,
        *,
        device: str = "cpu",
        threads: int = 1,
        allow_factory: bool = False,
        where: str = "",
    ):
        """**Arguments:** `where`: what outcomes call the place of work (default: this machine's
        name)."""
        self._store = store
        self.data = data
        self.device = device
        self.threads = threads
        self.allow_factory = allow_factory
        if allow_factory:  # on a worker too
            permit_code(True)
        self.where = where or socket.gethostname()
        self._cache: OrderedDict[str, Any] = OrderedDict()
        self._images: dict[str, torch.Tensor] = {}

    @cached_property
    def graphs(self) -> Graphs:
        """Training steps captured on a GPU, which go from model to model in the life of the
        worker."""
        return Graphs()

    @property
    def store(self) -> Store:
        """The store of finished units; a context made without one serves single models only."""
        if self._store is None:
            raise RuntimeError("this context has no store")
        return self._store

    def images(self, part: str) -> torch.Tensor:
        """Returns the uint8 images of `train` or `test` on the device; copied there once in the
        life of the worker."""
        if part not in self._images:
            self._images[part] = as_tensor(getattr(self.data.dataset, part).images).to(self.device)
        return self._images[part]

    def loader(
        self, part: str, indices: np.ndarray | None = None, *, batch_size: int = 256, **options: Unpack[LoaderOptions]
    ) -> ArrayLoader:
        """Returns an `ArrayLoader` over samples of `train` (with the labels that are trained on) or
        `test`."""
        dataset = self.data.dataset
        labels = self.data.split.labels if part == "train" else dataset.test.labels
        return ArrayLoader(
            self.images(part),
            labels,
            indices,
            mean=dataset.mean,
            std=dataset.std,
            batch_size=batch_size,
            device=self.device,
            **options,
        )

    def forget_loader(self, rows: np.ndarray, needs: Needs) -> ArrayLoader:
        """Returns a loader over samples to forget, in the order in which the method wants them."""
        data = self.data
        ordered = in_order(rows, needs.order, data.dataset.train.labels, data.split.labels)
        return self.loader("train", ordered, batch_size=needs.batch_size)

    def cached(self, key: str, make: Callable[[], T], keep: int = 2) -> T:
        """Returns `make()`, remembered under `key` among the last `keep` results."""
        if key not in self._cache:
            self._cache[key] = make()
            while len(self._cache) > keep:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        made: T = self._cache[key]
        return made

    def new_model(self, choice: Choice, seed: int) -> nn.Module:
        """Returns a freshly initialised model for this data, on the device."""
        dataset = self.data.dataset
        model = build_model(
            choice.name,
            num_classes=dataset.num_classes,
            in_channels=dataset.channels,
            image_size=dataset.image_size,
            seed=seed,
            allow_factory=self.allow_factory,
            **choice.options,
        )
        return model.to(self.device)

    def load_model(self, key: str) -> nn.Module:
        """Returns the model that the `train` or `unlearn` unit `key` left in the store."""
        facts = facts_of(self.store, key, ModelFacts)
        model = self.new_model(Choice.of(facts.model), seed=0)
        if facts.dropped_classes:
            model = drop_classes(model, tuple(facts.dropped_classes))
        model.load_state_dict(load_file(self.store.fetch(key, "model.safetensors"), device=self.device))
        return model.eval()


def save_model(attempt: Attempt, model: nn.Module) -> None:
    """Writes a model's weights as safetensors into an attempt."""
    save_file(tensors_of(model), attempt.path("model.safetensors"))
