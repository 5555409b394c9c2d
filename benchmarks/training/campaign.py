"""Shadow models of one dataset in one process: originals, retrained models, and methods on the originals of the test
fold.

    python benchmarks/training/campaign.py --train cifar10-train.parquet --test cifar10-test.parquet --output DIR
        [--originals 50 --retrained 50 --split 40,5,5 --epochs 200 --width 1.0 --per-class 100 --minutes 55]
        [--together 2]

Needs torch, NumPy, Pillow and pyarrow only, and no installed package but these, so it runs from a checkout on a bare
GPU machine; `orchestrator audit DIR/outputs/*.parquet` runs the attacks elsewhere. Everything finished is kept: the
same command again goes on where it was stopped and tries again what failed, and with `--minutes` it starts no further
work once the time is up. A model or method that fails (out of memory, diverged, a decomposition that does not
converge) is recorded, and the others go on. Models of the test fold are trained first, then the methods that need no
retain set are applied to them, then the other models are trained, then the remaining methods applied: so a campaign
that ran out of time can be measured. Each model depends on its own seed only. With `--together` so many models are
trained in turn, on a GPU each on its own stream; captured graphs go from model to model. Each line tells how much is
done and how long the rest will take.

Writes `models/*.pt`, `outputs/*.parquet` (see `attack.outputs.table`), `errors.json` (per model: errors on D_f, D_r and
test in percent, seconds, and why what failed failed). The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from campaign_files import Progress, save_json, write
from campaign_options import parse
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # of a script Python knows its own folder only

from attack.outputs.table import outputs_table
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
        self.graphs = Graphs(keep=options.together)
        self.failed: set[str] = set()  # in this run: nothing is tried twice in one
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

    def attempt(self, work: Callable[[], Any]) -> tuple[Any, str | None]:
        """What `work` returns, and None; or None, and in one line why it failed, so that the others can go on.

        Wrong settings and a diverged training are `ValueError`s, a device out of memory and a decomposition that does
        not converge `RuntimeError`s of torch's. What ends a campaign, such as a full disk, is neither.
        """
        try:
            return work(), None
        except (ValueError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if isinstance(error, RuntimeError):
                self.graphs = Graphs(keep=self.options.together)  # kept ones hold memory, or may be what fails
        # Only here: until the error is gone its traceback holds what the failed work had on the device.
        torch.cuda.empty_cache()
        return None, reason

    def record_failure(self, name: str, label: dict[str, str], reason: str, seconds: float) -> None:
        """Writes down why there is no measurement."""
        self.failed.add(name)
        write(self.output / "parts" / f"{name}.json", partial(save_json, {**label, "error": reason}))
        self.progress.done(name, seconds, f"failed: {reason}")

    # --- models ---------------------------------------------------------------------------------------------------

    def train(self, which: list[tuple[str, int]]) -> None:
        """Trains these models, in turn where they are several. Where that fails each is trained alone, so that only
        what fails by itself is missing."""
        start = time.perf_counter()
        found, reason = self.attempt(partial(self.trained, which))
        if reason is not None and len(which) > 1:
            print(f"{len(which)} models in turn: failed: {reason}; each is trained alone", flush=True)
            for each in which:
                if self.has_time():
                    self.train([each])
            return
        if reason is not None:
            label = self.shadow_label(*which[0])
            self.record_failure(label["model_id"], label, reason, time.perf_counter() - start)
            return
        models, histories, seconds = found
        for (role, index), model, history in zip(which, models, histories, strict=True):
            kept = {"state": model.cpu().state_dict(), "history": history, "seconds": seconds}
            write(self.model_path(role, index), partial(torch.save, kept))
            rate = sum(row["images"] for row in history) / seconds
            text = f"{seconds:.1f} s, {rate:,.0f} images/s, loss {history[-1]['loss']:.4f}"
            self.progress.done(f"{role}-{index:03d}", seconds, text)

    def trained(self, which: list[tuple[str, int]]) -> tuple[list[nn.Module], list[list[dict[str, Any]]], float]:
        """New models of these roles and numbers, trained; their histories; seconds for each."""
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
        return models, histories, (time.perf_counter() - start) / len(which)

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
        basis = cache(partial(self.basis, model))  # one for all methods that want it, made when the first does
        for name, settings in waiting:
            if not self.has_time():
                return
            params = {key: value for key, value in settings.items() if key != "name"}
            label = {"model_id": f"original-{index:03d}", "role": "unlearned", "method": settings["name"]}
            label |= {"params": json.dumps(params, sort_keys=True), "fold": "test"}
            start = time.perf_counter()
            found, reason = self.attempt(partial(self.unlearned, model, index, name, label, basis))
            if reason is not None:
                self.record_failure(name, label, reason, time.perf_counter() - start)
                continue
            seconds, epochs = found
            self.progress.done(name, seconds, f"{seconds:.1f} s, {epochs} epochs")

    def unlearned(
        self, model: nn.Module, index: int, name: str, label: dict[str, str], basis: Callable[[], CoreBasis]
    ) -> tuple[float, int]:
        """Applies one method and measures what it made. Returns its seconds, those of the core space left out, and
        epochs."""
        params = json.loads(label["params"])
        method = METHODS[label["method"]](**self.resolved(label["method"], params, index))
        given: dict[str, Any] = {"forget": self.loader("train", self.split.forget, getattr(method, "batch_size", 128))}
        if "validation" in method.requires():
            given["validation"] = self.loader("test", self.split.val)
        if method.access == "retain":
            given["retain"] = self.loader("train", self.split.retain)
        if getattr(method, "uses_graphs", False):
            given["graphs"] = self.graphs
        if method.access == "moments":
            given["moments"] = basis()
        start = time.perf_counter()
        result = method.unlearn(model, **given)
        seconds = time.perf_counter() - start
        self.measure(result.model, name, label, seconds, errors=True)
        return seconds, len(result.history)

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
        missing = [
            (role, index)
            for role, index, _ in shadows
            if not self.model_path(role, index).exists() and f"{role}-{index:03d}" not in self.failed
        ]
        while missing and self.has_time():
            now, missing = missing[: self.options.together], missing[self.options.together :]
            self.train(now)
            self.measure_shadows([shadow for shadow in shadows if shadow[:2] in now])
        self.measure_shadows(shadows)

    def measure_shadows(self, shadows: list[tuple[str, int, str]]) -> None:
        """Writes the outputs of those of these models that exist and are not measured."""
        for role, index, _ in shadows:
            name = f"{role}-{index:03d}"
            if self.is_measured(name) or name in self.failed or not self.model_path(role, index).exists():
                continue
            label = self.shadow_label(role, index)
            start = time.perf_counter()
            _, reason = self.attempt(partial(self.measure_shadow, role, index, label))
            if reason is not None:
                self.record_failure(name, label, reason, time.perf_counter() - start)

    def measure_shadow(self, role: str, index: int, label: dict[str, str]) -> None:
        """Writes the outputs of one trained model."""
        model, seconds = self.load(role, index)
        self.measure(model, label["model_id"], label, seconds, errors=label["fold"] == "test")

    def shadow_label(self, role: str, index: int) -> dict[str, str]:
        """What an outputs table tells of a trained model."""
        method = {"role": "unlearned", "method": "retrain"} if role == "retrain" else {"role": role, "method": ""}
        return {"model_id": f"{role}-{index:03d}", "params": "{}", "fold": self.folds[index], **method}

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
