"""Projected-gradient unlearning beside the plain way of doing it, how its time grows, and its memory.

    UNLEARN_DATA=… python benchmarks/pgu/bench.py [--images 5000] [--forget 200] [--width 0.25] [--epochs 20]
                                                  [--threads N] [--repeats 2] [--full] [--growth FILE.svg]

Each measurement is a process of its own, so that its peak of memory is its own. Both ways get the same model, the same
batches and the same settings; dropout is off, so that the weights they end with can be compared. Repeats of the two
alternate and the median is shown, with the least time that each stage can take (`floor.py`). `--full` adds SmallVGG at width 1, with its layer of 8,192 dimensions; `--growth`
draws time against images, dimensions and values of γ. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unlearn import PGU, ArrayLoader, Training, load_dataset, second_moments, small_vgg, train
from unlearn.moments.moments import accumulator

GAMMA = 0.95
GAMMAS = (0.995, 0.99, 0.98, 0.96, 0.90, 0.85, 0.80, 0.75)
BATCH = 128


def peak() -> int:
    """Bytes of memory that this process has held at most.

    On Linux by /proc: what `getrusage` says of a child process starts from its parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Job:
    """The model and its data, as a part of the benchmark finds them in `folder`."""

    def __init__(self, folder: Path, forget: int) -> None:
        stored = torch.load(folder / "job.pt", weights_only=True)
        self.images, self.labels = stored["images"], stored["labels"]
        self.options = {"mean": stored["mean"], "std": stored["std"], "batch_size": BATCH}
        self.model = small_vgg(width=stored["width"])
        self.model.load_state_dict(stored["weights"])
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.model.eval()
        self.forget = self.loader(0, forget)
        self.retain = self.loader(forget, len(self.images))
        self.everything = self.loader(0, len(self.images))

    def loader(self, start: int, stop: int) -> ArrayLoader:
        return ArrayLoader(self.images, self.labels, range(start, stop), **self.options)


def settings(epochs: int) -> dict[str, Any]:
    return {"epochs": epochs, "lr": 0.05, "final_lr": 0.01}


class Clock:
    """Wall and processor seconds of the stages of a job; on a machine that is shared only the latter hold still."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self.last = time.perf_counter(), time.process_time()

    def stage(self, name: str) -> None:
        now = time.perf_counter(), time.process_time()
        for found, end, start in zip((self.seconds, self.cpu_seconds), now, self.last, strict=True):
            found[name] = end - start
            if name != "projectors":  # `unlearn` makes its own; making them beforehand only measures them
                found["job"] = found.get("job", 0.0) + end - start
        self.last = now


def ours(job: Job, epochs: int, gammas: tuple[float, ...]) -> tuple[nn.Module, Clock]:
    """Moments, decomposition and one unlearning for each γ; the first γ's model."""
    clock = Clock()
    moments = second_moments(job.model, job.everything)
    clock.stage("moments")
    basis = moments.decompose(minus=second_moments(job.model, job.forget))
    clock.stage("space")
    for gamma in gammas:
        for name in basis.vectors:
            basis.projector(name, gamma)
    clock.stage("projectors")
    models = [
        PGU.of(gamma=gamma, batch_size=BATCH, early_stop=None, monitor_every=epochs, **settings(epochs))
        .unlearn(job.model, forget=job.forget, moments=basis)
        .model
        for gamma in gammas
    ]
    clock.stage("unlearning")
    return models[0], clock


def release(job: Job, epochs: int) -> tuple[nn.Module, Clock]:
    """The same by `release_way`."""
    import release_way as way

    from unlearn.training.plain import plain_loader

    clock = Clock()
    everything, forget, retain = (plain_loader(loader) for loader in (job.everything, job.forget, job.retain))
    total = way.moments(job.model, everything)
    clock.stage("moments")
    gone = way.moments(job.model, forget)
    way.projectors(total, GAMMA)
    spaces = way.projectors({name: matrix - gone[name] for name, matrix in total.items()}, GAMMA)
    clock.stage("space")
    model = way.unlearn(job.model, spaces, forget, retain, **settings(epochs))
    clock.stage("unlearning")
    return model, clock


def part(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Runs one measurement in this process."""
    torch.set_num_threads(args.threads)
    job = Job(folder, args.forget)
    with torch.no_grad():
        job.model(next(iter(job.forget))[0])  # what is set up once in a process is no part of either way
    if name == "floor":
        from floor import floor

        moments = second_moments(job.model, job.everything).parts
        matrices = {layer: matrix for layer, matrix in moments.items() if isinstance(matrix, Tensor)}
        return floor(job.model, job.everything, job.forget, matrices, args.epochs)
    before = peak()
    if name == "release":
        model, clock = release(job, args.epochs)
    else:
        model, clock = ours(job, args.epochs, {"ours": (GAMMA,), "first": GAMMAS[:1], "eight": GAMMAS}[name])
    found: dict[str, Any] = {
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "peak_bytes": peak(),
        "peak_bytes_above_start": peak() - before,
    }
    torch.save({key: value for key, value in model.state_dict().items()}, folder / f"{name}.pt")
    return found


def in_process(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Runs one measurement in a process of its own."""
    command = [sys.executable, os.fspath(Path(__file__).resolve()), "--part", name, "--folder", os.fspath(folder)]
    for key in ("forget", "epochs", "threads"):
        command += [f"--{key}", str(getattr(args, key))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def prepare(folder: Path, images: int, width: float, passes: int, threads: int) -> None:
    """Trains a model on the first images of CIFAR-10 and stores both."""
    torch.set_num_threads(threads)
    data = Path(os.environ["UNLEARN_DATA"])
    dataset = load_dataset(
        "parquet",
        train=os.fspath(data / "cifar10-jpeg-train.parquet"),
        test=os.fspath(data / "cifar10-jpeg-test.parquet"),
        image_column="img",
        label_column="label",
        limit={"train": images, "test": 100},
    )
    options: dict[str, Any] = {"mean": dataset.mean, "std": dataset.std, "batch_size": 256}
    model = small_vgg(width=width)
    loader = ArrayLoader(dataset.train.images, dataset.train.labels, shuffle=True, **options)
    train(model, loader, Training(epochs=passes, lr=0.02, final_lr=None, augment=None), seed=0)
    stored: dict[str, Any] = {"images": loader.images, "labels": loader.labels, "weights": model.state_dict()}
    torch.save({**stored, "width": width, "mean": loader.mean, "std": loader.std}, folder / "job.pt")


def growth(folder: Path, figure: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Time against images, dimensions and values of γ, drawn to `figure`."""
    torch.set_num_threads(args.threads)
    job = Job(folder, args.forget)

    def fastest(run: Any) -> float:
        times = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times)

    counts = [len(job.images) // share for share in (8, 4, 2, 1)]
    by_images = [fastest(lambda n=n: second_moments(job.model, job.loader(0, n))) for n in counts]
    basis = second_moments(job.model, job.everything).decompose()
    numbers = [1, 2, 4, 8]
    method = settings(args.epochs)

    def sweep(values: int) -> None:
        for gamma in GAMMAS[:values]:
            PGU.of(gamma=gamma, batch_size=BATCH, early_stop=None, monitor_every=args.epochs, **method).unlearn(
                job.model, forget=job.forget, moments=basis
            )

    by_gammas = [fastest(lambda n=n: sweep(n)) for n in numbers]
    channels = [16, 32, 64, 128, 256]
    by_size, by_decomposition = [], []
    for width in channels:
        layer, inputs = nn.Conv2d(width, width, 3, padding=1), torch.rand(256, width, 8, 8)

        def count(layer: nn.Conv2d = layer, inputs: Tensor = inputs) -> Tensor:
            total = accumulator(layer, inputs.device)
            total.add(inputs)
            matrix = total.finish()
            assert isinstance(matrix, Tensor)
            return matrix

        by_size.append(fastest(count))
        matrix = count()
        by_decomposition.append(fastest(lambda matrix=matrix: torch.linalg.eigh(matrix)))
    sizes = [9 * width for width in channels]
    draw(figure, counts, by_images, sizes, by_size, by_decomposition, numbers, by_gammas, args)
    return {
        "images": dict(zip(counts, by_images, strict=True)),
        "dimensions_moments": dict(zip(sizes, by_size, strict=True)),
        "dimensions_decomposition": dict(zip(sizes, by_decomposition, strict=True)),
        "gammas": dict(zip(numbers, by_gammas, strict=True)),
        "exponents": {
            "moments by images": slope(counts, by_images),
            "moments by dimensions": slope(sizes[2:], by_size[2:]),
            "decomposition by dimensions": slope(sizes[2:], by_decomposition[2:]),
            "unlearning by values of gamma": slope(numbers, by_gammas),
        },
    }


def slope(x: list[int], y: list[float]) -> float:
    """The exponent p of the best fit y ∝ x^p."""
    return round(float(np.polyfit(np.log(x), np.log(y), 1)[0]), 2)


def draw(
    figure: Path,
    counts: list[int],
    by_images: list[float],
    sizes: list[int],
    by_size: list[float],
    by_decomposition: list[float],
    numbers: list[int],
    by_gammas: list[float],
    args: argparse.Namespace,
) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "pgu"
    import matplotlib.pyplot as plt

    panels, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    axes[0].loglog(counts, by_images, "o-")
    axes[0].set(xlabel="images", ylabel="seconds", title=f"second moments, SmallVGG ×{args.width:g}")
    axes[1].loglog(sizes, by_size, "o-", label="moments, 256 images 8×8")
    axes[1].loglog(sizes, by_decomposition, "s-", label="decomposition")
    axes[1].set(xlabel="dimensions of one 3×3 convolution", title="one layer")
    axes[1].legend(frameon=False)
    axes[2].plot(numbers, by_gammas, "o-")
    axes[2].set(
        xlabel="values of γ", ylim=(0, None), title=f"unlearning {args.forget} images, {args.epochs} epochs each"
    )
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.parent.mkdir(parents=True, exist_ok=True)
    panels.savefig(figure, metadata={"Date": None})


def difference(folder: Path, job: Path) -> dict[str, float]:
    """How far the two ways' weights are apart, as a share of the weights and of how far they moved."""
    mine, theirs = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("ours", "release"))
    start = torch.load(job, weights_only=True)["weights"]
    names = [name for name in start if name.endswith("weight")]
    apart = sum(float((mine[n] - theirs[n]).square().sum()) for n in names) ** 0.5
    moved = sum(float((theirs[n] - start[n]).square().sum()) for n in names) ** 0.5
    length = sum(float(theirs[n].square().sum()) for n in names) ** 0.5
    return {"of_weights": apart / length, "of_change": apart / moved}


def median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    clocks = {
        clock: {key: round(statistics.median(run[clock][key] for run in runs), 3) for key in runs[0][clock]}
        for clock in ("seconds", "cpu_seconds")
    }
    return {**clocks, **{key: max(run[key] for run in runs) for key in ("peak_bytes", "peak_bytes_above_start")}}


def ratios(document: dict[str, Any], clock: str) -> dict[str, float]:
    """How many times faster, and how much eight values of γ cost beside one: before any step, and steps included."""

    def of(name: str, *stages: str) -> float:
        return sum(document[name][clock][stage] for stage in stages)

    prepared = ("moments", "space", "projectors")
    return {
        "job": round(of("release", "job") / of("ours", "job"), 2),
        "moments": round(of("release", "moments") / of("ours", "moments"), 2),
        "eight_gammas_prepared": round(of("eight", *prepared) / of("first", *prepared), 2),
        "eight_gammas_job": round(of("eight", "job") / of("first", "job"), 2),
    }


def over_floor(document: dict[str, Any]) -> dict[str, float]:
    """How many times the least possible time each stage takes."""
    ours, least = document["ours"]["seconds"], document["floor"]
    return {
        "moments": round(ours["moments"] / (least["gram"] + least["pass"]), 2),
        **{stage: round(ours[stage] / least[stage], 2) for stage in ("space", "unlearning", "job")},
        "eight_gammas": round(document["eight"]["seconds"]["job"] / least["eight_gammas"], 2),
    }


def line(name: str, found: dict[str, Any]) -> None:
    """One line: wall seconds of each stage, processor seconds of it in brackets, and the peak."""
    stages = "  ".join(f"{k} {v:6.2f} ({found['cpu_seconds'][k]:.2f})" for k, v in found["seconds"].items())
    above = found["peak_bytes_above_start"] / 2**20
    print(f"{name:<16}{stages}  peak {found['peak_bytes'] / 2**20:.0f} MiB, {above:.0f} of them its own", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--forget", type=int, default=200)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--train-epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--growth", type=Path)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(part(args.part, args.folder, args)))
        return
    if not os.environ.get("UNLEARN_DATA"):
        sys.exit("UNLEARN_DATA does not name a folder with cifar10-jpeg-train.parquet; nothing measured")
    document: dict[str, Any] = {
        "benchmark": "pgu",
        "images": args.images,
        "forget": args.forget,
        "width": args.width,
        "epochs": args.epochs,
        "threads": args.threads,
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, args.images, args.width, args.train_epochs, args.threads)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("release", "ours", "first", "eight")}
        for _ in range(args.repeats):
            for name, found in runs.items():
                found.append(in_process(name, folder, args))
        for name, found in runs.items():
            document[name] = median(found)
            line({"first": "ours, one γ", "eight": "ours, eight γ"}.get(name, name), document[name])
        document["ratios"] = ratios(document, "seconds")
        document["ratios_cpu"] = ratios(document, "cpu_seconds")
        document["floor"] = least = in_process("floor", folder, args)
        document["over_floor"] = over_floor(document)
        document["weights_apart"] = difference(folder, folder / "job.pt")
        print(f"ratios of wall seconds {document['ratios']}, of processor seconds {document['ratios_cpu']}")
        print("floor           " + "  ".join(f"{stage} {seconds:.2f}" for stage, seconds in least.items()))
        print(
            f"times the floor {document['over_floor']}; eight γ at the floor cost {least['eight_gammas'] / least['job']:.2f} times one"
        )
        print(f"weights apart {document['weights_apart']}", flush=True)
        if args.growth:
            document["growth"] = growth(folder, args.growth, args)
            print(f"growth {document['growth']['exponents']} drawn to {args.growth}", flush=True)
    if args.full:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            prepare(folder, args.images, 1.0, 0, args.threads)
            document["full_width"] = in_process("ours", folder, args)
            line("ours at width 1", document["full_width"])
    print(json.dumps(document))


if __name__ == "__main__":
    main()
