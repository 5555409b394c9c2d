"""Images a second in training: the fast path beside the plain one, and beside the fastest arithmetic of the machine.

    python benchmarks/training/bench.py [--models small_vgg,all_cnn,resnet18] [--sizes 32,64] [--widths 0.25,1.0]
                                        [--device auto] [--repeats 5] [--seconds 1.5] [--neighbours 0.05] [--no-plain]
                                        [--workers N] [--profile] [--output FILE]

`plain` is the usual way: a `DataLoader` over Pillow images with crop, flip, ToTensor and Normalize, NCHW, float32 with
the switches that torch comes with (on a GPU TensorFloat-32 in convolutions). On a GPU it is measured without worker
processes and with `--workers` of them, which stay from pass to pass; the faster of the two counts. Fast and plain
train through `unlearn.train` on random uint8 images, losses included; of two passes in a row the second counts, for
both. On a CPU, one process with every thread is measured beside one process a core, all at once: their counted
passes begin together, and all their images are divided by the time of the slowest. `all threads ÷ plain` compares the
code in the same layout; `best ÷ plain` takes the faster layout of the fast path, so it holds what the layout gains too.
A turn is: peak, all threads, plain, peak, a process a core, peak; turns are repeated, so that what neighbours or the
clock do falls on all alike.

A share of peak is measured within its turn: operations that the result depends on (products with padding are not
counted) against the larger of the peaks just before and just after, of as many cores in as many processes. `matmul` is
the fastest matrix product, `kernel` the fastest of that and a large convolution; a share of the latter stays below
100 % unless the clock changes within a turn. Medians and the range of turns are given. Turns during which others took
more than `--neighbours` of the processors' time are made again, at most twice as many as asked for; the JSON tells how
much others took in those that count, and how many were left out.

Prints a table as it goes; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # of a script Python knows its own folder only

from measuring import BATCH, Neighbours, Peak, ProcessPerCore, Trainee, operations, rate_of_all


def spread(values: list[float]) -> dict[str, float] | None:
    """Median, least and largest; None for nothing."""
    if not values:
        return None
    return {"median": statistics.median(values), "least": min(values), "largest": max(values)}


def shares(rates: list[float], flops: float, around: list[list[dict[str, float]]], name: str) -> Any:
    """Spread of the share of peak `name`, each rate held against the larger peak around it."""
    pairs = zip(rates, around, strict=True)
    return spread([rate * flops / max(before[name], after[name]) for rate, (before, after) in pairs])


def ratios(ours: list[float], plain: list[float]) -> dict[str, float] | None:
    """Spread of the ratio within each turn; None where plain was left out."""
    return spread([rate / other for rate, other in zip(ours, plain, strict=True)]) if plain else None


def worker_counts(options: argparse.Namespace) -> list[int]:
    """The numbers of workers that the plain way is measured with; on a CPU the cores are busy with arithmetic already."""
    if options.no_plain:
        return []
    return sorted({0, options.workers}) if options.device == "cuda" else [0]


def fastest(rates: dict[int, list[float]]) -> int | None:
    """The number of workers with which the plain way is fastest; None where it was left out."""
    return max(rates, key=lambda workers: sum(rates[workers]), default=None)


def measure(case: tuple[str, int, float], options: argparse.Namespace, cores: int) -> dict[str, Any]:
    """One row of the table."""
    model, size, width = case
    device = options.device
    flops = operations(*case)
    precision = "bfloat16" if device == "cuda" else "float32"
    peak = Peak(device)
    expected = 0.6 * peak()["matmul"] / flops["training"]
    count = int(min(50_000, max(1, expected * options.seconds // BATCH) * BATCH))
    fast = Trainee(*case, "fast", count, device, precision)
    slow = {  # every worker gets four batches, as the one process does
        workers: Trainee(*case, "plain", min(count, 4 * BATCH * max(1, workers)), device, "float32", workers)
        for workers in worker_counts(options)
    }
    per_core = None
    if device == "cpu" and cores > 1:
        share = max(BATCH, count // cores // BATCH * BATCH)
        per_core = ProcessPerCore((*case, "fast", share, device, precision), cores)
    neighbours = Neighbours()

    def turn() -> dict[str, Any]:
        neighbours.begin()
        found: dict[str, Any] = {"fast_peaks": [peak()]}
        found["fast"] = rate_of_all([fast.train()])
        found["fast_peaks"].append(peak())
        found["inference"] = fast.predict()
        found["plain"] = {workers: rate_of_all([trainee.train()]) for workers, trainee in slow.items()}
        if per_core is not None:
            found["per_core_peaks"] = [per_core.peak()]
            found["per_core"] = per_core.train()
            found["per_core_peaks"].append(per_core.peak())
        found["neighbours"] = neighbours.share()
        return found

    turn()  # warms up
    turns: list[dict[str, Any]] = []
    left_out = 0
    while len(turns) < options.repeats:
        found = turn()
        crowded = found["neighbours"] is not None and found["neighbours"] > options.neighbours
        if crowded and left_out < 2 * options.repeats:
            left_out += 1
        else:
            turns.append(found)
    rates = {name: [each[name] for each in turns if name in each] for name in ("fast", "per_core", "inference")}
    plain = {workers: [each["plain"][workers] for each in turns] for workers in slow}
    workers = fastest(plain)
    rates["plain"] = [] if workers is None else plain[workers]
    around = {name: [each[f"{name}_peaks"] for each in turns if name in each] for name in ("fast", "per_core")}
    if per_core is not None:
        per_core.close()
    best = "per_core" if sum(rates["per_core"]) > sum(rates["fast"]) else "fast"
    row: dict[str, Any] = {"model": model, "size": size, "width": width, "images_a_pass": count}
    row["mflop_per_image"] = {name: value / 1e6 for name, value in flops.items()}
    row["images_per_second"] = {name: spread(rates[name]) for name in ("fast", "per_core", "plain", "inference")}
    row["plain_by_workers"] = {str(number): spread(found) for number, found in plain.items()}
    row["plain_workers"] = workers
    row["neighbours"] = spread([each["neighbours"] for each in turns if each["neighbours"] is not None])
    row["turns_left_out"] = left_out
    row["layout"] = {"fast": "all threads", "per_core": "a process a core"}[best]
    row["fast_to_plain"] = ratios(rates["fast"], rates["plain"])
    row["best_to_plain"] = ratios(rates[best], rates["plain"])
    for name in ("matmul", "kernel"):
        row[f"share_of_{name}_peak"] = shares(rates[best], flops["training"], around[best], name)
        row[f"{name}_peak_gflops"] = spread([max(pair[0][name], pair[1][name]) / 1e9 for pair in around[best]])
    row["share_of_matmul_peak_with_padding"] = shares(
        rates[best], flops["training_with_padding"], around[best], "matmul"
    )
    return row


def at_work(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals: what runs on two streams at once counts once."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def profile(case: tuple[str, int, float], device: str) -> str:
    """Where the time of one pass goes, by operation; on a GPU also the part of the pass in which the GPU was at work.

    The steps of that pass are replayed: they were captured in a training before this one.
    """
    cuda = device == "cuda"
    trainee = Trainee(*case, "fast", (64 if cuda else 2) * BATCH, device, "bfloat16" if cuda else "float32")
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if cuda:
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
        # As torch does where it captures graphs itself: tracing that is taken down and set up again beside a captured
        # graph may crash. So it is set up here, ahead of the first capture, and stays.
        os.environ["DISABLE_CUPTI_LAZY_REINIT"], os.environ["TEARDOWN_CUPTI"] = "1", "0"
        with torch.profiler.profile(activities=kinds):
            torch.cuda.synchronize()
    trainee.train()
    found = torch.profiler.profile(activities=kinds)
    _, seconds = trainee.train(ready=found.start)
    found.stop()
    order = "self_device_time_total" if cuda else "self_cpu_time_total"
    table = str(found.key_averages().table(sort_by=order, row_limit=14, max_name_column_width=48))
    if not cuda:
        return table
    ranges = [
        (event.time_range.start, event.time_range.end)
        for event in found.events()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    busy = at_work(ranges) / 1e6
    return (
        f"{table}\nGPU at work {busy:.4f} s of the {seconds:.4f} s of a pass of 64 steps: {100 * busy / seconds:.0f} %"
    )


def shown(found: dict[str, float] | None, scale: float = 1.0, digits: int = 0) -> str:
    """A median with its range, for the table."""
    if found is None:
        return "–"
    return f"{scale * found['median']:,.{digits}f} ({scale * found['least']:,.{digits}f}–{scale * found['largest']:,.{digits}f})"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="small_vgg,all_cnn,resnet18")
    parser.add_argument("--sizes", default="32,64")
    parser.add_argument("--widths", default="0.25,1.0")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="about so long is a pass, one batch at the least")
    parser.add_argument("--neighbours", type=float, default=0.05, help="largest share of processor time of others")
    parser.add_argument("--no-plain", action="store_true", help="leave the plain way out")
    parser.add_argument("--workers", type=int, help="of the plain way's DataLoader on a GPU; one a core by default")
    parser.add_argument("--profile", action="store_true", help="print the operations that take longest too")
    parser.add_argument("--output", type=Path, help="write the JSON there too")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    available = len(os.sched_getaffinity(0))
    cores = available if options.device == "cpu" else 1
    if options.workers is None:
        options.workers = available
    if options.workers < 0:
        parser.error(f"--workers: {options.workers} is not allowed; give 0 or more")
    if options.device == "cpu":
        torch.set_num_threads(cores)
    print(
        f"{options.device}, {cores} cores, torch {torch.__version__}; medians with the range of {options.repeats} turns"
    )
    heads = [
        "plain/s",
        "all threads/s",
        "a process a core/s",
        "all threads ÷ plain",
        "best ÷ plain",
        "% of matmul",
        "% of kernel",
        "inference/s",
    ]
    print("| model | size | width | " + " | ".join(heads) + " |")
    print("|---" * (3 + len(heads)) + "|")
    rows: list[dict[str, Any]] = []
    document = {"device": options.device, "cores": cores, "torch": torch.__version__, "rows": rows}
    for size in map(int, options.sizes.split(",")):
        for model in options.models.split(","):
            for width in map(float, options.widths.split(",")):
                row = measure((model, size, width), options, cores)
                rows.append(row)
                if options.output:  # after every row, so that a run that is stopped leaves what it has
                    options.output.parent.mkdir(parents=True, exist_ok=True)
                    options.output.write_text(json.dumps(document, indent=1) + "\n")
                rates = row["images_per_second"]
                cells = [shown(rates[name]) for name in ("plain", "fast", "per_core")]
                cells += [shown(row[f"{name}_to_plain"], digits=2) for name in ("fast", "best")]
                cells += [shown(row[f"share_of_{name}_peak"], 100) for name in ("matmul", "kernel")]
                cells.append(shown(rates["inference"]))
                print(f"| {model} | {size} | {width:g} | " + " | ".join(cells) + " |", flush=True)
                if options.profile:
                    print(profile((model, size, width), options.device), flush=True)
    print(json.dumps(document))


if __name__ == "__main__":
    main()
