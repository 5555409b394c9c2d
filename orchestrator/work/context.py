"""What executing a unit needs: the store, the data, the device, and small caches that live as long as the worker."""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plan.data import ExperimentData
from ..store import Attempt, Store

if TYPE_CHECKING:
    import torch
    from torch import nn

    from unlearn import Graphs


class Context:
    """What executing a unit needs: the store, the data, the device, and small caches that live as long as the worker."""

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
        """**Arguments:** `where`: what outcomes call the place of work (default: this machine's name)."""
        self._store = store
        self.data = data
        self.device = device
        self.threads = threads
        self.allow_factory = allow_factory
        self.where = where or socket.gethostname()
        self._cache: OrderedDict[str, Any] = OrderedDict()
        self._images: dict[str, torch.Tensor] = {}

    @cached_property
    def graphs(self) -> Graphs:
        """Training steps captured on a GPU, which go from model to model in the life of the worker."""
        from unlearn import Graphs

        return Graphs()

    @property
    def store(self) -> Store:
        """The store of finished units; a context made without one serves single models only."""
        if self._store is None:
            raise RuntimeError("this context has no store")
        return self._store

    def images(self, part: str) -> torch.Tensor:
        """Returns the uint8 images of `train` or `test` on the device; copied there once in the life of the worker."""
        if part not in self._images:
            from unlearn.data import as_tensor

            self._images[part] = as_tensor(getattr(self.data.dataset, part).images).to(self.device)
        return self._images[part]

    def loader(self, part: str, indices: np.ndarray | None = None, *, batch_size: int = 256, **options: Any) -> Any:
        """Returns an `ArrayLoader` over samples of `train` (with the labels that are trained on) or `test`."""
        from unlearn import ArrayLoader

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

    def cached(self, key: str, make: Callable[[], Any], keep: int = 2) -> Any:
        """Returns `make()`, remembered under `key` among the last `keep` results."""
        if key not in self._cache:
            self._cache[key] = make()
            while len(self._cache) > keep:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def new_model(self, spec: dict[str, Any], seed: int) -> nn.Module:
        """Returns a freshly initialised model for this data, on the device."""
        from unlearn import build_model

        dataset = self.data.dataset
        options = {k: v for k, v in spec.items() if k != "name"}
        model = build_model(
            spec["name"],
            num_classes=dataset.num_classes,
            in_channels=dataset.channels,
            image_size=dataset.image_size,
            seed=seed,
            allow_factory=self.allow_factory,
            **options,
        )
        return model.to(self.device)

    def load_model(self, key: str) -> nn.Module:
        """Returns the model that the `train` or `unlearn` unit `key` left in the store."""
        from safetensors.torch import load_file

        from unlearn.models.classes import drop_classes

        meta = self.store.meta(key)
        model = self.new_model(meta["model"], seed=0)
        if meta["dropped_classes"]:
            model = drop_classes(model, tuple(meta["dropped_classes"]))
        model.load_state_dict(load_file(self.store.fetch(key, "model.safetensors"), device=self.device))
        return model.eval()


def save_model(attempt: Attempt, model: nn.Module) -> None:
    """Writes a model's weights as safetensors into an attempt."""
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, attempt.path("model.safetensors"))
