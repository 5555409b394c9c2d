"""The command line of a campaign."""

from __future__ import annotations

import argparse
import json
from typing import Any

GAMMAS = (0.995, 0.99, 0.98, 0.96, 0.95, 0.90, 0.85, 0.80, 0.75)
DEFAULT_METHODS: list[dict[str, Any]] = [
    *({"name": "pgu", "gamma": gamma} for gamma in GAMMAS),
    *({"name": "pgu", "gamma": 0.95, "top_k": k} for k in range(1, 6)),
    *({"name": "eu_k", "k": k} for k in range(1, 6)),
]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Shadow models of one dataset in one process, and methods applied to them."
    )
    parser.add_argument("--train", required=True, help="Parquet file or glob of training images")
    parser.add_argument("--test", required=True, help="Parquet file or glob of test images")
    parser.add_argument("--output", required=True)
    parser.add_argument("--image-column", default="img")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--limit", type=int, help="the first n training images")
    parser.add_argument("--model", default="small_vgg")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--originals", type=int, default=50)
    parser.add_argument("--retrained", type=int, default=50)
    parser.add_argument("--split", type=lambda text: [int(part) for part in text.split(",")], default=[40, 5, 5])
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--augment", default="crop_flip", type=lambda text: None if text == "none" else text)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", choices=("float32", "bfloat16"))
    parser.add_argument("--methods", type=json.loads, default=DEFAULT_METHODS, help="JSON list of {name, …}")
    parser.add_argument("--together", type=int, default=1, help="models trained in turn, on a GPU on streams")
    parser.add_argument("--minutes", type=float, help="start no further work after this")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if sum(options.split) != max(options.originals, options.retrained):
        parser.error(
            f"--split: adds up to {sum(options.split)}; the models are {options.originals}, {options.retrained}"
        )
    if options.together < 1:
        parser.error(f"--together: {options.together} is not allowed; give 1 or more")
    return options
