"""Second moments summed by Ray Data workers are those of one process."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from orchestrator.engine.ray.moments import second_moments_on_ray
from unlearn import build_model, second_moments

pytestmark = pytest.mark.timeout(300)


def as_images(batch: Mapping[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(list(batch["image"]))).permute(0, 3, 1, 2).float() / 255.0


def test_workers_sum_to_what_one_process_finds(ray_session: None) -> None:
    import ray

    images = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 3), dtype=np.uint8)
    model = build_model("all_cnn", num_classes=5, image_size=16, width=0.125, seed=0).eval()
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.from_items([{"image": image} for image in images]).repartition(4)
    found = second_moments_on_ray(model, dataset, as_images, workers=2, cpus_per_worker=0.5, batch_size=64)
    whole = second_moments(model, [(as_images({"image": images}), torch.zeros(300, dtype=torch.int64))])
    assert found.count == whole.count == 300
    assert (found.model_digest, found.data_digest) == (whole.model_digest, whole.data_digest)
    for name, matrix in whole.matrices.items():
        assert float((found.matrices[name] - matrix).norm() / matrix.norm()) < 1e-6, name
    with pytest.raises(ValueError, match="dataset: it has no rows"):
        second_moments_on_ray(model, dataset.limit(0), as_images, workers=1, cpus_per_worker=0.5)
