"""What a step of an unlearning method costs beside the plain gradient work that it needs.

    python benchmarks/training/methods.py [--model small_vgg] [--width 0.25] [--retain 2048] [--forget 512]
                                          [--batch 128] [--repeats 5] [--device auto] [--clock wall|process]
                                          [--profile NAME] [--output FILE]

Finetune, SCRUB, SalUn and SSD run as a user runs them. Beside each stands a loop written by hand with the same
forward passes, backward passes and optimiser steps on the same batches, in the same arithmetic. It has no kit, no
mask, no history. `kit ÷ plain` is the cost of a pass of the method over that of the loop; the aim is at most 1.15. Of
two passes in a row the second counts. SSD makes no steps: its whole run is measured, beside the squares of single
samples' gradients over the forget set.

`finetune ÷ DataLoader` is Finetune's images a second over those of the usual way: a `DataLoader` over Pillow images
with crop and flip. It should be the ratio of the training benchmark, which is measured beside it (`train ÷
DataLoader`; see bench.py).

All of them take turns, so that what neighbours or the clock do falls on all alike. A ratio is taken within its turn;
its median and range are given. `--clock process` counts processor time: for a busy machine, with OMP_NUM_THREADS=1.

Prints a table; the last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # of a script Python knows its own folder only

from bench import shown, spread
from measuring import BATCH, Trainee

import unlearn.training.loop
from unlearn import ArrayLoader, Fisher, Method, fisher_diagonal
from unlearn.core.memory import keep_freed_memory
from unlearn.core.numerics import deterministic_convolutions, full_float32
from unlearn.methods import SCRUB, SSD, Finetune, SalUn
from unlearn.training.whole_image import whole_image_products

AIM = 1.15
SGD: dict[str, Any] = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4}
TEMPERATURE, ALPHA, GAMMA = 2.0, 0.5, 1.0  # SCRUB's defaults

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


# --- the plain loops --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def same_arithmetic(*models: nn.Module) -> Iterator[None]:
    """Inside, convolutions are computed as the training loop computes them."""
    with contextlib.ExitStack() as stack:
        for each in (deterministic_convolutions(), full_float32(), keep_freed_memory()):
            stack.enter_context(each)
        for model in models:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            stack.enter_context(whole_image_products(model, next(model.parameters()).device.type == "cpu"))
        yield


def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(images), labels)


def divergence(teacher: nn.Module, images: Tensor, logits: Tensor) -> Tensor:
    with torch.no_grad():
        wanted = F.log_softmax(teacher(images) / TEMPERATURE, dim=1)
    found = F.log_softmax(logits / TEMPERATURE, dim=1)
    return TEMPERATURE**2 * F.kl_div(found, wanted, reduction="batchmean", log_target=True)


def timed_pass(model: nn.Module, optimizer: torch.optim.Optimizer, work: list[tuple[ArrayLoader, Loss]]) -> float:
    """Seconds of one pass over the loaders."""
    start = clock()
    for loader, loss_of in work:
        for images, labels in loader:
            optimizer.zero_grad(set_to_none=True)
            loss_of(model, images, labels).backward()
            optimizer.step()
    finish(model)
    return clock() - start


def two_passes(given: nn.Module, work: Callable[[nn.Module], list[tuple[ArrayLoader, Loss]]]) -> float:
    """Seconds of the second of two passes on a copy of the model; `work` is given the teacher."""
    model, teacher = copy.deepcopy(given).train(), copy.deepcopy(given).eval().requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), fused=True, **SGD)
    with same_arithmetic(model, teacher):
        steps = work(teacher)
        timed_pass(model, optimizer, steps)
        return timed_pass(model, optimizer, steps)


def plain_finetune(model: nn.Module, forget: ArrayLoader, retain: ArrayLoader) -> float:
    return two_passes(model, lambda _: [(retain, cross_entropy)])


def plain_scrub(model: nn.Module, forget: ArrayLoader, retain: ArrayLoader) -> float:
    def work(teacher: nn.Module) -> list[tuple[ArrayLoader, Loss]]:
        def climb(student: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            return -divergence(teacher, images, student(images))

        def descend(student: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            logits = student(images)
            return GAMMA * F.cross_entropy(logits, labels) + ALPHA * divergence(teacher, images, logits)

        return [(forget, climb), (retain, descend)]

    return two_passes(model, work)


def plain_salun(model: nn.Module, forget: ArrayLoader, retain: ArrayLoader) -> float:
    drawn = forget.replace(labels=forget.labels.flip(0))
    return two_passes(model, lambda _: [(drawn, cross_entropy), (retain, cross_entropy)])


def plain_ssd(model: nn.Module, forget: ArrayLoader, retain: ArrayLoader) -> float:
    """Seconds of the sums of squares of single samples' gradients."""
    model = copy.deepcopy(model).eval()
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, {**parameters, **buffers}, (image[None],)), label[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    with deterministic_convolutions(), full_float32(), keep_freed_memory():
        start = clock()
        sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for images, labels in forget:
            for name, each in gradients(weights, images, labels).items():
                sums[name] += each.square().sum(dim=0)
        finish(model)
        return clock() - start


# --- the methods ------------------------------------------------------------------------------------------------------


def second_pass(method: Method) -> Callable[..., float]:
    """Seconds of the second pass of a method that trains."""

    def run(model: nn.Module, forget: ArrayLoader, retain: ArrayLoader) -> float:
        found = method.unlearn(model, forget=forget, retain=retain, num_classes=10)
        return float(found.history[1]["seconds"])

    return run


def whole_run(method: Method, stored: Fisher) -> Callable[..., float]:
    """Seconds of a method that makes no steps."""

    def run(model: nn.Module, forget: ArrayLoader, retain: ArrayLoader) -> float:
        start = clock()
        method.unlearn(model, forget=forget, fisher=stored, num_classes=10)
        return clock() - start

    return run


clock: Callable[[], float] = time.perf_counter


def finish(model: nn.Module) -> None:
    """Waits for the device."""
    if next(model.parameters()).device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measures and prints."""
    global clock
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="small_vgg")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--retain", type=int, default=2048, help="images of the retain set")
    parser.add_argument("--forget", type=int, default=512, help="images of the forget set")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--clock", default="wall", choices=("wall", "process"))
    parser.add_argument(
        "--profile", metavar="NAME", help="print the operations of this method that take longest, and end"
    )
    parser.add_argument("--output", type=Path, help="write the JSON there too")
    options = parser.parse_args()
    device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if options.clock == "process":
        clock = time.process_time
        unlearn.training.loop.time = types.SimpleNamespace(perf_counter=clock)  # type: ignore[assignment]
    count = options.retain + options.forget
    case = (options.model, 32, options.width)
    usual = Trainee(*case, "plain", options.retain, device, "float32")
    fast = Trainee(*case, "fast", options.retain, device, "float32")
    whole = Trainee(*case, "fast", count, device, "float32")
    model = whole.net.eval()
    everything = whole.loader.replace(augment=None, batch_size=options.batch)
    forget = everything.replace(indices=range(options.forget))
    retain = everything.replace(indices=range(options.forget, count))
    settings: dict[str, Any] = {**SGD, "epochs": 2, "batch_size": options.batch}
    stored = fisher_diagonal(model, everything)
    augmented = Finetune(**{**settings, "batch_size": BATCH}, augment="crop_flip")
    pairs = {
        "finetune": (second_pass(Finetune(**settings)), plain_finetune),
        "scrub": (second_pass(SCRUB(**settings, forget_batch=options.batch)), plain_scrub),
        "salun": (second_pass(SalUn(**settings)), plain_salun),
        # Every weight that matters to the forget set at all is dampened, so that there is something to do.
        "ssd": (whole_run(SSD(alpha=1e-6, lam=1e-6), stored), plain_ssd),
    }
    if options.profile:
        if options.profile not in pairs:
            parser.error(f"--profile: {options.profile!r} is not allowed; allowed are {', '.join(pairs)}")
        for run in pairs[options.profile]:
            run(model, forget, retain)
            with torch.profiler.profile() as profile:
                run(model, forget, retain)
            print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=16, max_name_column_width=48))
        return
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}; {options.clock} time, medians of {options.repeats} turns")  # fmt: skip

    def turn() -> dict[str, Any]:
        found: dict[str, Any] = {name: [run(model, forget, retain) for run in pair] for name, pair in pairs.items()}
        seconds = second_pass(augmented)(model, forget, retain)
        found["rates"] = {"finetune": options.retain / seconds}
        for name, trainee in (("train", fast), ("DataLoader", usual)):
            images, seconds = trainee.train()
            found["rates"][name] = images / seconds
        return found

    turn()  # warms up
    turns = [turn() for _ in range(options.repeats)]
    document: dict[str, Any] = {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}
    document |= {"clock": options.clock, "cores": len(os.sched_getaffinity(0)), **{k: v for k, v in vars(options).items() if k not in ("output", "profile", "device", "clock")}}  # fmt: skip
    document["kit_to_plain"] = {name: spread([t[name][0] / t[name][1] for t in turns]) for name in pairs}
    document["kit_seconds"] = {name: spread([t[name][0] for t in turns]) for name in pairs}
    rates = [t["rates"] for t in turns]
    document["images_per_second"] = {name: spread([rate[name] for rate in rates]) for name in rates[0]}
    document["to_dataloader"] = {
        name: spread([rate[name] / rate["DataLoader"] for rate in rates]) for name in ("finetune", "train")
    }
    document["within_aim"] = all(found["median"] <= AIM for found in document["kit_to_plain"].values())
    print("| method | seconds | kit ÷ plain |\n|---|---|---|")
    for name in pairs:
        print(
            f"| {name} | {shown(document['kit_seconds'][name], digits=3)} | {shown(document['kit_to_plain'][name], digits=3)} |"
        )
    for name, found in document["to_dataloader"].items():
        print(f"{name} ÷ DataLoader: {shown(found, digits=3)}")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
