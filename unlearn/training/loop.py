"""The hot loop: one pass after another over a loader, shared by whole models and by parts of
models.

On a GPU nothing in it waits for the device. Batches are made there and sums stay there until a pass
ends. The learning rate is a tensor there, and full batches replay one captured CUDA graph. Several
models may be trained in turn, a step each, on a stream each; every one is trained as it would be
alone.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..core.batches import EpochCallback, Loader, device_of, to_device
from ..core.memory import keep_freed_memory
from ..core.modes import few_notes
from ..core.numerics import deterministic_convolutions, full_float32
from ..core.seeds import seeded
from .graphs import GraphedStep, Graphs
from .recipe import Training
from .signature import has_hooks
from .step import Step, autocast, trained_parameters
from .whole_image import whole_image_products

__all__ = [
    "EpochCallback",
    "Job",
    "Loader",
    "StopTraining",
    "TrainingDiverged",
    "Work",
    "autocast",
    "device_of",
    "fit",
    "fit_together",
    "to_device",
]


class TrainingDiverged(ValueError):
    """The loss is no longer a number; the text names the setting to change."""


class Work(Protocol):
    """What one optimiser step does with an item of a pass:

    a batch, or whatever else the loader yields.
    """

    def begin_pass(self, rate: float) -> None:
        """Called before each pass, after every module was put into its mode."""

    def __call__(self, item: Any) -> tuple[Tensor, Tensor | None, int]:
        """Makes a step.

        Returns the mean loss and the correct answers, on the device, and the number of images.
        """

    def end_pass(self) -> None:
        """Called after each pass."""

    def close(self) -> None:
        """Called once, when training ends."""


class StopTraining(Exception):
    """Raised by `on_epoch` to end a training of one model after the pass that is over."""


@dataclass
class Job:
    """One model to train.

    **Arguments:** `set_mode` is called before every pass and puts each module into training or
    evaluation mode. `make_work` makes what a step does; None classifies by cross-entropy. `notes`
    gets what to tell of the first pass. The others as for `unlearn.training.train.train`.
    """

    model: nn.Module
    loader: Loader
    training: Training
    seed: int
    set_mode: Callable[[], Any]
    on_epoch: EpochCallback | None = None
    make_work: Callable[[], Work] | None = None
    notes: list[str] = field(default_factory=list)


class _Classifying:
    """A step of cross-entropy on a batch of images and labels:

    captured where it can be, else an ordinary one.
    """

    def __init__(self, job: Job, device: torch.device, graphs: Graphs) -> None:
        self.job, self.device = job, device
        self.fast = job.training.path == "fast"
        self.step: Step | GraphedStep
        if self.fast and device.type == graphs.device_type and not has_hooks(job.model):
            self.step = GraphedStep(job.model, job.training, job.seed, graphs)
        else:
            self.step = Step(job.model, job.training, device, job.seed)
        self.begin_pass, self.end_pass, self.close = self.step.begin_pass, self.step.end_pass, self.step.close

    def __call__(self, item: Any) -> tuple[Tensor, Tensor | None, int]:
        images, labels = to_device(item, self.device, channels_last=self.fast)
        loss, correct = self.step(images, labels)
        return loss, correct, len(labels)


def fit(job: Job, graphs: Graphs | None = None) -> list[dict[str, Any]]:
    """Trains those parameters of the job's model that require gradients, in place; see
    `unlearn.training.train.train`.
    """
    history: list[dict[str, Any]] = []
    with seeded(job.seed), _surroundings([job]), contextlib.suppress(StopTraining):
        for _ in _steps(job, history, graphs or Graphs()):
            pass
    return history


def fit_together(jobs: Sequence[Job], graphs: Graphs | None = None) -> list[list[dict[str, Any]]]:
    """Trains several models in one process, a step of each in turn, on a GPU each on a stream of
    its own.

    Each takes the steps that it would take alone, as long as its loader draws random numbers of its
    own or torch's.
    """
    kept = Graphs(keep=len(jobs)) if graphs is None else graphs
    histories: list[list[dict[str, Any]]] = [[] for _ in jobs]
    with _surroundings(jobs):
        lanes = [_Lane(job, _steps(job, history, kept)) for job, history in zip(jobs, histories, strict=True)]
        try:
            while lanes:
                lanes = [lane for lane in lanes if lane.step()]
        finally:
            for lane in lanes:
                lane.steps.close()
    return histories


class _Lane:
    """A model's place among several:

    its stream on a GPU, and its own state of torch's generator on the CPU.
    """

    def __init__(self, job: Job, steps: Any) -> None:
        self.steps = steps
        self.random = torch.Generator().manual_seed(job.seed).get_state()
        self.stream: torch.cuda.Stream | None = None
        device = device_of(job.model)
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)
            # what made the model and the data
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def step(self) -> bool:
        """Makes one step. Returns whether there was one left."""
        outside = torch.get_rng_state()
        torch.set_rng_state(self.random)
        try:
            with torch.cuda.stream(self.stream) if self.stream is not None else contextlib.nullcontext():
                return next(self.steps, _END) is not _END
        finally:
            self.random = torch.get_rng_state()
            torch.set_rng_state(outside)


_END = object()


@contextlib.contextmanager
def _surroundings(jobs: Sequence[Job]) -> Iterator[None]:
    """What training needs of the process and of each model's memory, while it lasts."""
    with contextlib.ExitStack() as stack:
        for kind in {device_of(job.model).type for job in jobs}:
            # Around the whole loop: a caller's autocast would round the backward pass too, which
            # runs outside the step's own.
            stack.enter_context(autocast(torch.device(kind), "float32"))
        stack.enter_context(deterministic_convolutions())
        if any(job.training.precision == "float32" for job in jobs):
            stack.enter_context(full_float32())
        if any(job.training.path == "fast" for job in jobs):
            stack.enter_context(keep_freed_memory())
        for job in jobs:
            fast = job.training.path == "fast"
            stack.enter_context(_channels_last(job.model, fast))
            stack.enter_context(whole_image_products(job.model, fast and device_of(job.model).type == "cpu"))
        yield


def _steps(job: Job, history: list[dict[str, Any]], graphs: Graphs) -> Iterator[None]:
    """Trains; yields after each step, appends a row to `history` after each pass."""
    model, loader, training = job.model, job.loader, job.training
    device = device_of(model)
    if not trained_parameters(model):
        raise ValueError("model: none of its parameters can be trained")
    work = _Classifying(job, device, graphs) if job.make_work is None else job.make_work()
    try:
        for epoch in range(training.epochs):
            start = time.perf_counter()
            rate = training.rate(epoch)
            job.set_mode()
            work.begin_pass(rate)
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(epoch)
            loss_sum = torch.zeros((), dtype=torch.float64, device=device)
            correct_sum = torch.zeros((), dtype=torch.int64, device=device)
            count, smallest = 0, math.inf
            for item in loader:
                try:
                    loss, correct, size = work(item)
                except ValueError as error:
                    if "Expected more than 1 value per channel" not in str(error):
                        raise
                    raise ValueError(
                        f"{training.section}batch_size: a batch of 1 image cannot be trained on with batch "
                        "normalisation; choose a size that leaves more in the last batch"
                    ) from error
                loss_sum += loss * size
                if correct is not None:
                    correct_sum += correct
                count += size
                smallest = min(smallest, size)
                yield
            if count == 0:
                raise ValueError("loader: holds no images to train on")
            work.end_pass()
            if epoch == 0:
                job.notes += few_notes(model, int(smallest))
            loss_mean = loss_sum.item() / count  # the first wait for the device in this pass
            if not math.isfinite(loss_mean):
                raise TrainingDiverged(
                    f"{training.section}lr: the loss is {loss_mean} after pass {epoch + 1}; lower it from {training.lr}"
                )
            row = {
                "epoch": epoch + 1,
                "loss": loss_mean,
                "accuracy": correct_sum.item() / count if job.make_work is None else None,
                "lr": rate,
                "seconds": time.perf_counter() - start,
                "images": count,
            }
            history.append(row)
            if job.on_epoch is not None:
                job.on_epoch(row)
    finally:
        work.close()


@contextlib.contextmanager
def _channels_last(model: nn.Module, wanted: bool) -> Any:
    """Inside, convolution weights are channels-last in memory; afterwards contiguous, as files
    expect.
    """
    if wanted:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        if wanted:
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
