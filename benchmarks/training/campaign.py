"""Shadow models of one dataset in one process: originals, retrained models, and methods on the originals of the test
fold.

    python benchmarks/training/campaign.py --train cifar10-train.parquet --test cifar10-test.parquet --output DIR
        [--originals 50 --retrained 50 --split 40,5,5 --epochs 200 --width 1.0 --per-class 100 --minutes 55]
        [--together 2]

Needs torch, NumPy, Pillow and pyarrow only, so it runs on a bare GPU machine; `orchestrator audit
DIR/outputs/*.parquet` runs the attacks elsewhere. Everything finished is kept: the same command again goes on where
it was stopped and tries again what failed, and with `--minutes` it starts no further work once the time is up. Models of the test fold are
trained first, then the methods that need no retain set are applied to them, then the other models are trained, then
the remaining methods applied: so a campaign that ran out of time can be measured. Each model depends on its own seed
only. With `--together` so many models are trained in turn, on a GPU each on its own stream; captured graphs go from
model to model. Each line tells how much is done and how long the rest will take.

Writes `models/*.pt`, `outputs/*.parquet` (see `attack.outputs`), `errors.json` (per model: errors on D_f, D_r and
test in percent, seconds, and why what failed failed). The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from campaign_files import Progress, save_json, write
from torch import nn

from attack.outputs import outputs_table
from unlearn import (
    METHODS,
    ArrayLoader,
    CoreBasis,
    Graphs,
    Scenario,
    Training,
    build_model,
    load_dataset,
    make_split,
    predict,
    second_moments,
    train,
    train_together,
)

GAMMAS = (0.995, 0.99, 0.98, 0.96, 0.95, 0.90, 0.85, 0.80, 0.75)
DEFAULT_METHODS: list[dict[str, Any]] = [
    *({"name": "pgu", "gamma": gamma} for gamma in GAMMAS),
    *({"name": "pgu", "gamma": 0.95, "top_k": k} for k in range(1, 6)),
    *({"name": "eu_k", "k": k} for k in range(1, 6)),
]


def seed_of(seed: int, role: str, index: int) -> int:
    """A seed of 63 bits for one model, from the campaign's seed, the model's role and its number."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{role}/{index}".encode()).digest()[:8], "big") >> 1


class Campaign:
    """The data on the device, and what has been finished so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.output = options, Path(options.output)
        self.device = options.device
        if self.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.precision = options.precision or ("bfloat16" if self.device == "cuda" else "float32")
        self.deadline = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
        limit = {"train": options.limit} if options.limit else None
        columns = {"image_column": options.image_column, "label_column": options.label_column}
        self.data = load_dataset("parquet", train=options.train, test=options.test, limit=limit, **columns)
        self.split = make_split(self.data, Scenario(per_class=options.per_class), options.seed)
        self.training = Training(
            epochs=options.epochs, batch_size=options.batch_size, augment=options.augment, precision=self.precision
        )
        self.folds = [
            fold
            for fold, count in zip(("train", "validation", "test"), options.split, strict=True)
            for _ in range(count)
        ]
        self.images = {
            part: torch.from_numpy(getattr(self.data, part).images).to(self.device) for part in ("train", "test")
        }
        self.graphs = Graphs(keep=max(1, options.together))
        self.progress = Progress()
        self._check_settings()

    def _check_settings(self) -> None:
        """What is in the output folder must come from the same settings."""
        settings = {
            "dataset": self.data.digest,
            "split": self.split.digest,
            "model": [self.options.model, self.options.width],
            "training": asdict(self.training),
            "seed": self.options.seed,
            "folds": self.options.split,
        }
        path = self.output / "settings.json"
        if path.exists() and json.loads(path.read_text()) != json.loads(json.dumps(settings)):
            raise SystemExit(f"{path} holds other settings; give another --output, or the same settings to go on")
        write(path, partial(save_json, settings))

    def loader(self, part: str, rows: np.ndarray | None = None, batch_size: int = 512, **options: Any) -> ArrayLoader:
        labels = self.split.labels if part == "train" else self.data.test.labels
        return ArrayLoader(
            self.images[part],
            labels,
            rows,
            mean=self.data.mean,
            std=self.data.std,
            batch_size=batch_size,
            device=self.device,
            **options,
        )

    def new_model(self, seed: int) -> nn.Module:
        return build_model(
            self.options.model,
            num_classes=self.data.num_classes,
            in_channels=self.data.channels,
            image_size=self.data.image_size,
            width=self.options.width,
            seed=seed,
        ).to(self.device)

    def shadows(self) -> Iterator[tuple[str, int, str]]:
        """(role, number, fold) of every model, those of the test fold first, originals and retrained in turn."""
        counts = {"original": self.options.originals, "retrained": self.options.retrained}
        order = sorted(range(len(self.folds)), key=lambda i: -("train", "validation", "test").index(self.folds[i]))
        for index in order:
            for role, count in counts.items():
                if index < count:
                    yield role, index, self.folds[index]
            if self.folds[index] == "test":
                yield "retrain", index, "test"  # the standard: a further retrained model, measured like a method

    def has_time(self) -> bool:
        return time.monotonic() < self.deadline

    # --- models ---------------------------------------------------------------------------------------------------

    def train(self, which: list[tuple[str, int]]) -> None:
        """Trains these models, in turn where they are several."""
        seeds = [seed_of(self.options.seed, role, index) for role, index in which]
        models = [self.new_model(seed) for seed in seeds]
        settings = {"shuffle": True, "augment": self.training.augment}
        loaders = [
            self.loader(
                "train",
                None if role == "original" else self.split.retain,
                self.training.batch_size,
                seed=seed,
                **settings,
            )
            for (role, _), seed in zip(which, seeds, strict=True)
        ]
        start = time.perf_counter()
        if len(which) == 1:
            histories = [train(models[0], loaders[0], self.training, seed=seeds[0], graphs=self.graphs)]
        else:
            histories = train_together(models, loaders, self.training, seeds=seeds, graphs=self.graphs)
        seconds = (time.perf_counter() - start) / len(which)
        for (role, index), model, history in zip(which, models, histories, strict=True):
            kept = {"state": model.cpu().state_dict(), "history": history, "seconds": seconds}
            write(self.model_path(role, index), partial(torch.save, kept))
            rate = sum(row["images"] for row in history) / seconds
            text = f"{seconds:.1f} s, {rate:,.0f} images/s, loss {history[-1]['loss']:.4f}"
            self.progress.done(f"{role}-{index:03d}", seconds, text)

    def model_path(self, role: str, index: int) -> Path:
        return self.output / "models" / f"{role}-{index:03d}.pt"

    def load(self, role: str, index: int) -> tuple[nn.Module, float]:
        kept = torch.load(self.model_path(role, index), weights_only=True)
        model = self.new_model(0)
        model.load_state_dict(kept["state"])
        return model.to(self.device).eval(), kept["seconds"]

    # --- outputs --------------------------------------------------------------------------------------------------

    def measure(self, model: nn.Module, name: str, label: dict[str, str], seconds: float, errors: bool) -> None:
        """Writes one model's forget-set logits and, where asked for, its errors."""
        logits, labels = predict(model, self.loader("train", self.split.forget))
        found: dict[str, Any] = {**label, "seconds": seconds}
        parts = {"forget": ("train", self.split.forget)}
        if errors:
            parts |= {"retain": ("train", self.split.retain), "test": ("test", self.split.test)}
        for part, (where, rows) in parts.items():
            answers, truth = predict(model, self.loader(where, rows))
            found[f"error_{part}"] = 100 * (answers.argmax(dim=1) != truth).double().mean().item()
        table = outputs_table(**label, sample_ids=self.split.forget, labels=labels.numpy(), logits=logits.numpy())
        write(self.output / "parts" / f"{name}.parquet", partial(pq.write_table, table))
        write(self.output / "parts" / f"{name}.json", partial(save_json, found))

    def is_measured(self, name: str) -> bool:
        """Whether there is a measurement; what failed is tried again."""
        path = self.output / "parts" / f"{name}.json"
        return path.exists() and "error" not in json.loads(path.read_text())

    def unlearn(self, index: int, methods: list[dict[str, Any]]) -> None:
        """Applies every method to one original; what fails is recorded and the others go on."""
        waiting = [(self.unlearned_name(index, settings), settings) for settings in methods]
        waiting = [(name, settings) for name, settings in waiting if not self.is_measured(name)]
        if not waiting or not self.has_time() or not self.model_path("original", index).exists():
            return
        model, _ = self.load("original", index)
        basis: CoreBasis | None = None
        for name, settings in waiting:
            if not self.has_time():
                return
            params = {key: value for key, value in settings.items() if key != "name"}
            method = METHODS[settings["name"]](**self.resolved(settings["name"], params, index))
            label = {"model_id": f"original-{index:03d}", "role": "unlearned", "method": settings["name"]}
            label |= {"params": json.dumps(params, sort_keys=True), "fold": "test"}
            given: dict[str, Any] = {
                "forget": self.loader("train", self.split.forget, getattr(method, "batch_size", 128))
            }
            if "validation" in method.requires():
                given["validation"] = self.loader("test", self.split.val)
            if method.access == "retain":
                given["retain"] = self.loader("train", self.split.retain)
            if getattr(method, "uses_graphs", False):
                given["graphs"] = self.graphs
            if method.access == "moments":
                basis = basis or self.basis(model)
                given["moments"] = basis
            start = time.perf_counter()
            try:
                result = method.unlearn(model, **given)
            except ValueError as error:
                failed = {**label, "error": str(error).splitlines()[0]}
                write(self.output / "parts" / f"{name}.json", partial(save_json, failed))
                self.progress.done(name, time.perf_counter() - start, f"failed: {failed['error']}")
                continue
            seconds = time.perf_counter() - start
            self.measure(result.model, name, label, seconds, errors=True)
            self.progress.done(name, seconds, f"{seconds:.1f} s, {len(result.history)} epochs")

    def basis(self, model: nn.Module) -> CoreBasis:
        """The core space of the retain data: G(D), over one augmented pass, less G(D_f)."""
        everything = self.loader("train", None, 256, augment=self.training.augment, seed=self.options.seed)
        forget = self.loader("train", self.split.forget, 256)
        return (second_moments(model, everything) - second_moments(model, forget)).decompose()

    def resolved(self, name: str, params: dict[str, Any], index: int) -> dict[str, Any]:
        """The parameters with the training's own settings where the method trains by them, and a seed."""
        inherited = asdict(self.training) if getattr(METHODS[name], "inherits_training", False) else {}
        return {**inherited, "seed": seed_of(self.options.seed, name, index), **params}

    def unlearned_name(self, index: int, settings: dict[str, Any]) -> str:
        text = json.dumps(settings, sort_keys=True)
        return f"unlearned-{settings['name']}-{hashlib.sha256(text.encode()).hexdigest()[:8]}-{index:03d}"

    # --- the whole ------------------------------------------------------------------------------------------------

    def run(self, methods: list[dict[str, Any]]) -> dict[str, Any]:
        """Does what is not done yet, in the order that the head of this file tells."""
        shadows = list(self.shadows())
        test = [index for index, fold in enumerate(self.folds) if fold == "test" and index < self.options.originals]
        for role, index, _ in shadows:
            self.progress.expect(f"{role}-{index:03d}", "train", self.model_path(role, index).exists())
        for index in test:
            for settings in methods:
                name = self.unlearned_name(index, settings)
                self.progress.expect(name, json.dumps(settings, sort_keys=True), self.is_measured(name))
        late = [settings for settings in methods if METHODS[settings["name"]].access == "retain"]
        early = [settings for settings in methods if settings not in late]
        self.run_shadows([shadow for shadow in shadows if shadow[2] == "test"])
        for index in test:
            self.unlearn(index, early)
        self.run_shadows(shadows)
        for index in test:
            self.unlearn(index, late)
        return self.assemble()

    def run_shadows(self, shadows: list[tuple[str, int, str]]) -> None:
        """Trains and measures those of these models that are missing, while there is time."""
        missing = [(role, index) for role, index, _ in shadows if not self.model_path(role, index).exists()]
        while missing and self.has_time():
            now, missing = missing[: self.options.together], missing[self.options.together :]
            self.train(now)
            self.measure_shadows([shadow for shadow in shadows if shadow[:2] in now])
        self.measure_shadows(shadows)

    def measure_shadows(self, shadows: list[tuple[str, int, str]]) -> None:
        """Writes the outputs of those of these models that exist and are not measured."""
        for role, index, fold in shadows:
            name = f"{role}-{index:03d}"
            if self.is_measured(name) or not self.model_path(role, index).exists():
                continue
            model, seconds = self.load(role, index)
            shown = {"model_id": name, "params": "{}", "fold": fold}
            shown |= {"role": "unlearned", "method": "retrain"} if role == "retrain" else {"role": role, "method": ""}
            self.measure(model, name, shown, seconds, errors=fold == "test")

    def assemble(self) -> dict[str, Any]:
        """Joins what was measured into `outputs/*.parquet` and `errors.json`."""
        found = {path.stem: json.loads(path.read_text()) for path in sorted((self.output / "parts").glob("*.json"))}
        groups: dict[str, list[str]] = {}
        for name, about in found.items():
            if "error" not in about:
                groups.setdefault(name.rpartition("-")[0], []).append(name)
        for group, names in groups.items():
            table = pa.concat_tables([pq.read_table(self.output / "parts" / f"{name}.parquet") for name in names])
            write(self.output / "outputs" / f"{group}.parquet", partial(pq.write_table, table))
        write(self.output / "errors.json", partial(save_json, found))
        failed = sum("error" in about for about in found.values())
        return {"models": {group: len(names) for group, names in groups.items()}, "failed": failed}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs a campaign and returns what it has."""
    options = parse(arguments)
    start = time.perf_counter()
    summary = Campaign(options).run(options.methods)
    summary["seconds"] = time.perf_counter() - start
    print(json.dumps(summary))
    return summary


if __name__ == "__main__":
    main()
