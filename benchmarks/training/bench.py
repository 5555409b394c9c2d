"""Images a second in training: the fast path beside the plain one, and beside the largest matrix product of the
machine.

    python benchmarks/training/bench.py [--models small_vgg,all_cnn,resnet18] [--sizes 32,64] [--widths 0.25,1.0]
                                        [--device auto] [--passes 3] [--no-plain]

`plain` is the usual way: a `DataLoader` over Pillow images with crop, flip, ToTensor and Normalize, NCHW, float32.
Both train through `unlearn.train` on the same random uint8 images, augmentation and evaluation of losses included;
passes of the two alternate, so that a neighbour's load falls on both, and medians are shown. On a CPU, one process
with every thread is measured beside one process a core, all at once. The share of peak counts the floating-point
operations that a step executes against the fastest matrix product of the same device in the same run (on a CPU, of as
many cores).

Prints a table as it goes; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from unlearn import ArrayLoader, Training, build_model, train

BATCH = 256
CLASSES = {32: 10, 64: 200}
RECIPES: dict[str, dict[str, Any]] = {
    "small_vgg": {},
    "all_cnn": {},
    "resnet18": {"optimizer": "adam", "lr": 1e-3, "final_lr": 1e-4, "weight_decay": 2e-4},
}


def flops_per_image(model: str, size: int, width: float) -> float:
    """Floating-point operations of one training step, forward and backward, for one image."""
    net = build_model(model, num_classes=CLASSES[size], image_size=size, width=width)
    images = torch.randn(2, 3, size, size)
    with FlopCounterMode(display=False) as counter:
        net(images).sum().backward()
    return counter.get_total_flops() / 2


def matmul_peak(device: str) -> float:
    """Operations a second of the fastest square matrix product: float32 on a CPU, bfloat16 on a GPU."""
    cuda = device == "cuda"
    best = 0.0
    for side in (4096, 8192, 16384) if cuda else (1024, 2048):
        a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16 if cuda else torch.float32) for _ in "ab")
        for _ in range(8):
            if cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(repeats := 10 if cuda else 1):
                a @ b
            if cuda:
                torch.cuda.synchronize()
            best = max(best, repeats * 2 * side**3 / (time.perf_counter() - start))
    return best


class Trainee:
    """One model in training; each call makes passes over its images and returns images a second for each."""

    def __init__(self, model: str, size: int, width: float, path: str, count: int, device: str, precision: str) -> None:
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        labels = random.integers(0, CLASSES[size], count)
        self.net = build_model(model, num_classes=CLASSES[size], image_size=size, width=width).to(device)
        self.loader = ArrayLoader(
            images,
            labels,
            mean=(0.49, 0.48, 0.45),
            std=(0.25, 0.24, 0.26),
            batch_size=BATCH,
            shuffle=True,
            augment="crop_flip",
            device=device,
        )
        self.settings = {**RECIPES[model], "path": path, "precision": precision}

    def __call__(self, passes: int) -> list[float]:
        history = train(self.net, self.loader, Training(epochs=passes, **self.settings), seed=0)
        return [row["images"] / row["seconds"] for row in history]


def _worker(case: tuple[Any, ...], passes: int, barrier: Any, results: Any) -> None:
    torch.set_num_threads(1)
    trainee = Trainee(*case)
    trainee(1)
    barrier.wait()
    results.put(statistics.median(trainee(passes)))


def one_process_a_core(case: tuple[Any, ...], passes: int, cores: int) -> float:
    """Images a second of `cores` processes of one thread each, training at the same time."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(cores), context.Queue()
    processes = [context.Process(target=_worker, args=(case, passes, barrier, results)) for _ in range(cores)]
    for process in processes:
        process.start()
    total = sum(results.get(timeout=1800) for _ in processes)
    for process in processes:
        process.join()
    return total


def measure(
    model: str, size: int, width: float, device: str, passes: int, plain: bool, peak: float, cores: int
) -> dict[str, Any]:
    """One row of the table."""
    flops = flops_per_image(model, size, width)
    precision = "bfloat16" if device == "cuda" else "float32"
    seconds = 3.0
    count = int(min(50_000, max(2 * BATCH, peak * 0.5 * seconds / flops // BATCH * BATCH)))
    fast = Trainee(model, size, width, "fast", count, device, precision)
    slow = Trainee(model, size, width, "plain", min(count, 8 * BATCH), device, "float32") if plain else None
    rates: dict[str, list[float]] = {"fast": [], "plain": []}
    for turn in range(passes + 1):  # the first turn warms up
        # Two passes a turn, of which the second counts: the first takes the page faults and captures the graph.
        rates["fast"] += fast(2)[1:] if turn else fast(1)[:0]
        if slow is not None:
            rates["plain"] += slow(1) if turn else slow(1)[:0]
    row: dict[str, Any] = {"model": model, "size": size, "width": width, "mflop_per_image": flops / 1e6}
    row["fast"] = statistics.median(rates["fast"])
    row["plain"] = statistics.median(rates["plain"]) if slow is not None else None
    row["ratio"] = row["fast"] / row["plain"] if row["plain"] else None
    row["share_of_peak"] = row["fast"] * flops / peak
    best = row["fast"]
    if device == "cpu" and cores > 1:
        row["process_per_core"] = one_process_a_core(
            (model, size, width, "fast", max(2 * BATCH, count // cores), device, precision), max(2, passes), cores
        )
        best = max(best, row["process_per_core"])
        row["best_share_of_peak"] = best * flops / peak
        row["best_ratio"] = best / row["plain"] if row["plain"] else None
    return row


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="small_vgg,all_cnn,resnet18")
    parser.add_argument("--sizes", default="32,64")
    parser.add_argument("--widths", default="0.25,1.0")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--no-plain", action="store_true", help="leave the plain way out")
    options = parser.parse_args()
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    cores = len(os.sched_getaffinity(0)) if device == "cpu" else 1
    if device == "cpu":
        torch.set_num_threads(cores)
    peak = matmul_peak(device)
    print(f"{device}, {cores} cores, torch {torch.__version__}; largest matrix product {peak / 1e9:,.0f} GFLOP/s")
    print(
        f"{'model':10} {'size':>4} {'width':>5} {'plain/s':>9} {'fast/s':>9} {'a core/s':>9} "
        f"{'best ÷ plain':>12} {'of peak':>8}"
    )
    rows = []
    for size in map(int, options.sizes.split(",")):
        for model in options.models.split(","):
            for width in map(float, options.widths.split(",")):
                peak = max(
                    peak, matmul_peak(device)
                )  # measured before each row, so that a neighbour's burst does not lower it
                row = measure(model, size, width, device, options.passes, not options.no_plain, peak, cores)
                rows.append(row)
                ratio = row.get("best_ratio", row["ratio"])
                share = row.get("best_share_of_peak", row["share_of_peak"])
                per_core = row.get("process_per_core")
                print(
                    f"{model:10} {size:4d} {width:5.2f} {row['plain'] or float('nan'):9,.0f} {row['fast']:9,.0f} "
                    f"{per_core or float('nan'):9,.0f} {ratio or float('nan'):12.2f} {share:8.1%}",
                    flush=True,
                )
    print(json.dumps({"device": device, "cores": cores, "torch": torch.__version__, "peak_flops": peak, "rows": rows}))


if __name__ == "__main__":
    main()
