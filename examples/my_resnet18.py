"""Stands for a model of your own: torchvision's ResNet-18, trained on photos of users in Parquet.

    python examples/my_resnet18.py [FOLDER]

It writes `train.parquet` and `test.parquet`, with the columns `image`, `label`, `photo` and
`user_id`, and the weights `resnet18.pt`. The photos are scikit-learn's handwritten digits, 20 of
each of 12 users. Two of the users labelled theirs at random.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from unlearn import load_dataset  # before torchvision: it mends its import beside a CPU-only torch

from torchvision.models import resnet18  # isort: skip

USERS, EACH = 12, 20
CARELESS = (3, 7)  # these users labelled their photos at random, and the model has learned it
EPOCHS, BATCH, RATE, LAST_RATE = 20, 80, 0.05, 0.0025


def photos(images: np.ndarray, labels: np.ndarray, first: int) -> pa.Table:
    """Returns images uint8 `(n, 8, 8, 3)` and what is known of them as a table."""
    colour = np.repeat(images, 3, axis=3)
    return pa.table(
        {
            "image": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(colour)),
            "label": labels,
            "photo": [f"photo-{first + place}" for place in range(len(labels))],
            "user_id": [f"u{place % USERS}" for place in range(len(labels))],
        }
    )


def trained(table: pa.Table) -> nn.Module:
    """Returns a ResNet-18 that was trained on the table, as its owner would do it."""
    images = torch.tensor(table["image"].combine_chunks().to_numpy_ndarray()).permute(0, 3, 1, 2).float() / 255
    images = (images - images.mean()) / images.std(correction=0)
    labels = torch.from_numpy(table["label"].to_numpy())
    model = resnet18(num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, (LAST_RATE / RATE) ** (1 / EPOCHS))
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    return model


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_dataset("digits", limit={"train": USERS * EACH, "test": 200})
    careless = np.isin(np.arange(len(digits.train.labels)) % USERS, CARELESS)
    drawn = np.random.default_rng(0).integers(10, size=len(careless))
    table = photos(digits.train.images, np.where(careless, drawn, digits.train.labels), 0)
    pq.write_table(table, folder / "train.parquet")
    pq.write_table(photos(digits.test.images, digits.test.labels, USERS * EACH), folder / "test.parquet")
    torch.manual_seed(5)
    torch.save({"state_dict": trained(table).state_dict()}, folder / "resnet18.pt")
    print(f"wrote train.parquet, test.parquet and resnet18.pt to {folder}")


if __name__ == "__main__":
    main()
