"""Second moments summed block by block, also by Ray Data workers, are those of one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.engine.ray.moments import second_moments_on_ray
from unlearn import build_model, second_moments


def as_images(batch: Mapping[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(list(batch["image"]))).permute(0, 3, 1, 2).float() / 255.0


class Blocks:
    """A dataset of Ray Data whose map runs in this process, block by block."""

    def __init__(self, blocks: list[dict[str, Any]]):
        self._blocks = blocks

    def map_batches(self, actor: Any, *, fn_constructor_args: tuple[Any, ...], **options: Any) -> Blocks:
        made = actor(*fn_constructor_args)
        return Blocks([made(block) for block in self._blocks])

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        return ({"moments": moments} for block in self._blocks for moments in block["moments"])


IMAGES = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 3), dtype=np.uint8)


def test_blocks_sum_to_what_one_process_finds() -> None:
    check(Blocks([{"image": IMAGES[start : start + 75]} for start in range(0, 300, 75)]), Blocks([]))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_sum_to_what_one_process_finds(ray_session: None) -> None:
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.from_items([{"image": image} for image in IMAGES]).repartition(4)
    check(dataset, dataset.limit(0))


def check(dataset: Any, empty: Any) -> None:
    """Holds the moments of all blocks against those of one pass over `IMAGES`."""
    model = build_model("all_cnn", num_classes=5, image_size=16, width=0.125, seed=0).eval()
    found = second_moments_on_ray(model, dataset, as_images, workers=2, cpus_per_worker=0.5, batch_size=64)
    whole = second_moments(model, [(as_images({"image": IMAGES}), torch.zeros(300, dtype=torch.int64))])
    assert found.count == whole.count == 300
    assert (found.model_digest, found.data_digest) == (whole.model_digest, whole.data_digest)
    for name, matrix in whole.matrices.items():
        assert float((found.matrices[name] - matrix).norm() / matrix.norm()) < 1e-6, name
    with pytest.raises(ValueError, match="dataset: it has no rows"):
        second_moments_on_ray(model, empty, as_images, workers=1, cpus_per_worker=0.5)
