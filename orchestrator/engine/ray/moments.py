"""Second moments of data that no one process should read: a Ray Data pass whose blocks are summed
as they come.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from ray.data import ActorPoolStrategy, Dataset
from torch import Tensor, nn

from unlearn import SecondMoments, second_moments

Prepare = Callable[[Mapping[str, np.ndarray]], "Tensor"]


class _BlockMoments:
    """A Ray Data actor that holds the model and turns a block of images into moments."""

    def __init__(self, model: nn.Module, prepare: Prepare, batch_size: int, threads: int):
        torch.set_num_threads(threads)
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.prepare, self.batch_size = prepare, batch_size

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        images = self.prepare(batch)
        labels = torch.zeros(len(images), dtype=torch.int64)  # not looked at
        pairs = zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True)
        return {"moments": [_to_bytes(second_moments(self.model, list(pairs)))]}


def second_moments_on_ray(
    model: nn.Module,
    dataset: Dataset,
    prepare: Prepare,
    *,
    workers: int = 2,
    batch_size: int = 256,
    cpus_per_worker: float = 1.0,
    gpus_per_worker: float = 0.0,
) -> SecondMoments:
    """Returns what `unlearn.second_moments` returns for all rows in one process, to rounding.

    **Arguments:**

    - `dataset`: of Ray Data. Each block becomes one matrix a layer and is added up here. So the
        driver holds two sets of moments however large the data. Use blocks of some thousand images
        (`repartition`) where the model is wide.
    - `prepare`: a block's columns → images as the model takes them, float `(n, C, h, w)`. Runs on
      the workers.
    - `workers`, `cpus_per_worker`, `gpus_per_worker`: how many actors, and what each takes.
      `batch_size`: of a forward pass.

    **Raises:** `ValueError` where the dataset is empty; `IncompatibleMoments` where blocks came
    from different models.
    """
    blocks = dataset.map_batches(
        _BlockMoments,
        batch_size=None,  # a block as it is
        compute=ActorPoolStrategy(size=workers),
        num_cpus=cpus_per_worker,
        num_gpus=gpus_per_worker or None,
        fn_constructor_args=(copy.deepcopy(model).cpu(), prepare, batch_size, max(1, int(cpus_per_worker))),
    )
    try:
        return SecondMoments.merge(_from_bytes(row["moments"]) for row in blocks.iter_rows())
    except ValueError as error:
        if str(error).startswith("shards"):
            raise ValueError("dataset: it has no rows") from None
        raise


def _to_bytes(moments: SecondMoments) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "moments.safetensors"
        moments.save(path)
        return path.read_bytes()


def _from_bytes(content: bytes) -> SecondMoments:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "moments.safetensors"
        path.write_bytes(content)
        return SecondMoments.load(path)
