"""EU-k with the frozen part computed once, beside computing it in every pass and beside training all layers.

    python benchmarks/training/last_layers.py [--k 2] [--epochs 10] [--images 2048] [--width 0.25] [--repeats 3]

The three alternate, on SmallVGG with random 32×32 images without augmentation, in one process with every thread.
Images a second are images of the retain set times epochs over the whole time, the frozen part included. Evaluation is
not part of it; inference has its column in `bench.py`. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from measuring import BATCH, Trainee

from unlearn import EUk, Training, train
from unlearn.methods import last_layers


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--k", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    subject = Trainee("small_vgg", 32, options.width, "fast", options.images, device, "float32")
    loader = subject.loader.replace(augment=None)
    settings = {"epochs": options.epochs, "batch_size": BATCH, "augment": None}
    method = EUk(k=options.k, **settings)
    room = last_layers.room_for_features

    def frozen_once() -> None:
        method.unlearn(subject.net, forget=loader.replace(indices=range(8)), retain=loader)

    def frozen_every_pass() -> None:
        last_layers.room_for_features = lambda device: 0  # as where the features do not fit into memory
        try:
            frozen_once()
        finally:
            last_layers.room_for_features = room

    def all_layers() -> None:
        train(subject.net, loader, Training(**settings), seed=0)

    ways = {"frozen_once": frozen_once, "frozen_every_pass": frozen_every_pass, "all_layers": all_layers}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(options.repeats + 1):  # the first warms up
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if repeat:
                rates[name].append(options.images * options.epochs / (time.perf_counter() - start))
    for name, found in rates.items():
        print(f"{name:18} {statistics.median(found):8,.0f} images/s ({min(found):,.0f}–{max(found):,.0f})", flush=True)
    print(json.dumps({"k": options.k, "epochs": options.epochs, "width": options.width, "images_per_second": rates}))


if __name__ == "__main__":
    main()
