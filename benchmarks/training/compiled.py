"""`torch.compile` beside the fast path as it is, on one device, in one process with every thread.

    python benchmarks/training/compiled.py [--models small_vgg,all_cnn,resnet18] [--size 32] [--width 0.25] [--images 2048] [--repeats 3]

Both train the same model from the same seed on random images in the usual way; the compiled one is compiled in its first pass,
and only second passes are timed, in turns. `compile_seconds` is the first pass less an ordinary one: what every process
would pay again. The largest difference between the two models' losses stands beside the speeds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from measuring import BATCH, RECIPES, Trainee

from unlearn import Training, train


def passes(net: Any, subject: Trainee, model: str) -> tuple[float, float, list[float]]:
    """Seconds of the first pass and of the second, and the losses of both."""
    start = time.perf_counter()
    history = train(net, subject.loader, Training(epochs=2, batch_size=BATCH, **RECIPES[model]), seed=0)
    whole = time.perf_counter() - start
    return whole - history[1]["seconds"], history[1]["seconds"], [row["loss"] for row in history]


def compare(model: str, options: argparse.Namespace, device: str) -> dict[str, Any]:
    """Images a second of both ways, turn by turn."""
    precision = "bfloat16" if device == "cuda" else "float32"
    subjects = {
        way: Trainee(model, options.size, options.width, "fast", options.images, device, precision) for way in "ab"
    }
    state = {name: value.clone() for name, value in subjects["a"].net.state_dict().items()}
    nets = {"a": subjects["a"].net, "b": torch.compile(subjects["b"].net)}
    rates: dict[str, list[float]] = {"a": [], "b": []}
    first = {"a": 0.0, "b": 0.0}
    apart = 0.0
    for repeat in range(options.repeats):
        losses = {}
        for way, subject in subjects.items():
            subject.net.load_state_dict(state)
            begun, second, losses[way] = passes(nets[way], subject, model)
            first[way] = first[way] if repeat else begun
            rates[way].append(options.images / second)
        apart = max([apart, *(abs(x - y) for x, y in zip(losses["a"], losses["b"], strict=True))])
    ratios = sorted(b / a for a, b in zip(rates["a"], rates["b"], strict=True))
    return {
        "model": model,
        "size": options.size,
        "width": options.width,
        "fast": rates["a"],
        "compiled": rates["b"],
        "compiled_over_fast": [statistics.median(ratios), ratios[0], ratios[-1]],
        "compile_seconds": first["b"] - first["a"],
        "loss_apart": apart,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="small_vgg,all_cnn,resnet18")
    parser.add_argument("--size", type=int, default=32, choices=(32, 64))
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results = []
    for model in options.models.split(","):
        found = compare(model, options, device)
        results.append(found)
        middle, least, most = found["compiled_over_fast"]
        print(
            f"{model:10} fast {statistics.median(found['fast']):7,.0f} compiled {statistics.median(found['compiled']):7,.0f} images/s, "
            f"{middle:.2f} ({least:.2f}–{most:.2f}) times; {found['compile_seconds']:.0f} s to compile; losses apart {found['loss_apart']:.1e}",
            flush=True,
        )
    print(
        json.dumps({"benchmark": "compiled", "device": device, "threads": torch.get_num_threads(), "results": results})
    )


if __name__ == "__main__":
    main()
