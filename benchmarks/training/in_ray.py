"""Training inside Ray beside training outside it: images a second in the loop itself, and what a unit costs beside it.

    python benchmarks/training/in_ray.py [--models 6] [--epochs 3] [--images 2560] [--width 0.25] [--repeats 3]

Both train the same shadow models (SmallVGG, 32×32 images, crop and flip), a process a core, all cores at once. Outside:
processes that call `unlearn.train` and keep nothing. Inside: the engine's units, each with its model synced, checksummed
and committed to the store. Runs alternate. Starting Ray and the first import of torch in its workers are not counted.

Overhead of a unit is what its place was occupied beyond the training loop: places · wall time − seconds in loops, over
the number of units; an uneven finish is part of it on both sides.

The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from measuring import Processes
from PIL import Image

from orchestrator.engine.base import Told
from orchestrator.engine.ray.engine import RayEngine
from orchestrator.plan.data import ExperimentData, load_data
from orchestrator.plan.plan import make_plan
from orchestrator.plan.units import Outcome, Unit
from orchestrator.recipe.recipe import check_recipe
from orchestrator.recipe.sections import Recipe
from orchestrator.store import open_store
from unlearn import build_model, train


def write_images(path: Path, count: int) -> None:
    """Random 32×32 images of ten classes, as a Parquet file."""
    random = np.random.default_rng(0)
    encoded = []
    for pixels in random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": ""})
    pq.write_table(pa.table({"img": encoded, "label": np.arange(count) % 10}), path)


def make_recipe(folder: Path, options: argparse.Namespace, seed: int) -> Recipe:
    """An experiment of `--models` models; each seed is another, so that nothing is reused."""
    half = options.models // 2
    return check_recipe(
        {
            "name": "in-ray",
            "seed": seed,
            "dataset": {
                "source": "parquet",
                "train": str(folder / "train.parquet"),
                "test": str(folder / "test.parquet"),
                "image_column": "img",
                "label_column": "label",
            },
            "scenario": {"kind": "samples", "per_class": 5},
            "model": {"name": "small_vgg", "width": options.width},
            "training": {"epochs": options.epochs, "augment": "crop_flip"},
            "shadows": {"originals": half, "retrained": half, "split": [half - 2, 1, 1]},
            "methods": [],
        }
    )


def _serve(arrays: dict[str, np.ndarray], barrier: Any, orders: Any, answers: Any) -> None:
    """A process outside Ray: trains the units that it is sent."""
    from orchestrator.work.context import Context

    torch.set_num_threads(1)
    context = Context(None, ExperimentData.from_arrays(arrays))
    while (specs := orders.get()) is not None:
        barrier.wait()
        start, loops = time.perf_counter(), []
        for spec in specs:
            training = spec.training
            rows = None if spec.indices == "all" else context.data.split.retain
            model = build_model("small_vgg", num_classes=10, width=spec.model.options["width"], seed=spec.seed)
            options = {"shuffle": True, "augment": training.augment, "seed": spec.seed}
            loader = context.loader("train", rows, batch_size=training.batch_size, **options)
            loops.append(train(model, loader, training, seed=spec.seed))
        answers.put((time.perf_counter() - start, loops))


def outside(processes: Processes, units: list[Unit]) -> tuple[float, list[list[dict[str, Any]]]]:
    """Wall seconds of the slowest process, and the history of every model."""
    places = len(processes.orders)
    answers = processes.ask([[unit.spec for unit in units[number::places]] for number in range(places)])
    return max(seconds for seconds, _ in answers), [history for _, loops in answers for history in loops]


def inside(engine: RayEngine, units: list[Unit]) -> tuple[float, list[list[dict[str, Any]]]]:
    """The same in Ray, through the store."""
    outcomes: list[Outcome] = []
    start = time.perf_counter()
    engine.run(units, Told(outcomes.append))
    seconds = time.perf_counter() - start
    failed = [outcome.error for outcome in outcomes if outcome.failed]
    if failed or len(outcomes) != len(units):
        raise SystemExit(f"{len(failed)} of {len(units)} units failed: {failed[:1]}")
    return seconds, [engine.store.meta(unit.key)["history"] for unit in units]


def described(seconds: float, loops: list[list[dict[str, Any]]], places: int) -> dict[str, float]:
    """Speed in the loop and overhead of a unit."""
    rows = [row for history in loops for row in history]
    busy = sum(row["seconds"] for row in rows)
    return {
        "images_per_second_of_a_core": sum(row["images"] for row in rows) / busy,
        "overhead_seconds_per_unit": (places * seconds - busy) / len(loops),
        "seconds_in_the_loop_per_unit": busy / len(loops),
        "wall_seconds": seconds,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=6, help="an even number, 6 or more")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the JSON there too")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="in-ray-"))
    places = len(os.sched_getaffinity(0))
    found: dict[str, list[dict[str, float]]] = {"outside": [], "inside": []}
    try:
        write_images(folder / "train.parquet", options.images)
        write_images(folder / "test.parquet", 200)
        recipe = make_recipe(folder, options, 0)
        store = open_store(str(folder / "store"))
        data = load_data(recipe, store)
        processes = Processes(_serve, data.to_arrays(), places)
        engine = RayEngine(None, store, data, recipe.resources)
        try:
            for repeat in range(options.repeats + 1):  # the first warms up and is not counted
                units = list(make_plan(make_recipe(folder, options, repeat), data).stages["train"])
                for name, run in (("outside", partial(outside, processes)), ("inside", partial(inside, engine))):
                    measured = described(*run(units), places)
                    if repeat:
                        found[name].append(measured)
                        print(
                            f"{name:8} {measured['images_per_second_of_a_core']:7,.0f} images/s a core in the loop, "
                            f"{measured['overhead_seconds_per_unit']:.2f} s a unit beside it",
                            flush=True,
                        )
        finally:
            engine.close()
            processes.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    medians = {
        name: {key: statistics.median(each[key] for each in rows) for key in rows[0]} for name, rows in found.items()
    }
    ratio = [
        mine["images_per_second_of_a_core"] / other["images_per_second_of_a_core"]
        for mine, other in zip(found["inside"], found["outside"], strict=True)
    ]
    document = {
        "places": places,
        "settings": {key: getattr(options, key) for key in ("models", "epochs", "images", "width", "repeats")},
        "medians": medians,
        "inside_over_outside": {"median": statistics.median(ratio), "least": min(ratio), "largest": max(ratio)},
        "runs": found,
    }
    if options.output:
        options.output.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
