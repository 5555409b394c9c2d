"""The hot loop: one pass after another over a loader, shared by whole models and by parts of models.

On a GPU nothing in it waits for the device: batches are made there, sums stay there until a pass ends, the learning
rate is a tensor there, and full batches replay one captured CUDA graph.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .memory import keep_freed_memory
from .seeds import seeded
from .whole_image import whole_image_products

if TYPE_CHECKING:
    from .training import Training

Loader = Iterable[tuple[Tensor, Tensor]]
EpochCallback = Callable[[dict[str, Any]], None]

_EAGER_STEPS = 3  # steps on a GPU before the graph is captured: they create optimiser state and cuDNN workspaces


class TrainingDiverged(ValueError):
    """The loss is no longer a number; the text names the setting to change."""


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU where it has neither."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def to_device(batch: tuple[Tensor, Tensor], device: torch.device, channels_last: bool = True) -> tuple[Tensor, Tensor]:
    """The batch on `device`, images in the memory layout asked for; nothing is copied that is already so."""
    images, labels = batch
    layout = torch.channels_last if channels_last and images.ndim == 4 else torch.contiguous_format
    return images.to(device, non_blocking=True, memory_format=layout), labels.to(device, non_blocking=True)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Computation in `precision`, weights untouched, also where the caller has an autocast of its own.

    Weights are used once a step, so casts are not cached.
    """
    if precision == "float32":
        if torch.is_autocast_enabled(device.type):
            return torch.autocast(device.type, enabled=False)
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


def make_optimizer(parameters: list[nn.Parameter], training: Training, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser of `training`. On a GPU its rate is a tensor, so that a captured graph follows the schedule."""
    fused = training.path == "fast"
    rate: Any = torch.tensor(training.rate(0), device=device) if fused and device.type == "cuda" else training.rate(0)
    if training.optimizer == "adam":
        capturable = fused and device.type == "cuda"
        return torch.optim.Adam(
            parameters, lr=rate, weight_decay=training.weight_decay, fused=fused, capturable=capturable
        )
    return torch.optim.SGD(
        parameters, lr=rate, momentum=training.momentum, weight_decay=training.weight_decay, fused=fused
    )


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


class _Step:
    """One optimiser step on a batch; returns the batch's mean loss and number of correct answers, on the device."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, precision: str
    ) -> None:
        self.model, self.optimizer, self.device, self.precision = model, optimizer, device, precision

    def _forward_backward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(self.device, self.precision):
            logits = self.model(images)
        if logits.dtype == torch.bfloat16:
            logits = logits.float()  # a softmax of half-precision logits would lose the confidence tails
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        return loss.detach(), (logits.detach().argmax(dim=1) == labels).sum()

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        result = self._forward_backward(images, labels)
        self.optimizer.step()
        return result


class _GraphedStep(_Step):
    """The same step, captured as a CUDA graph for batches of the first batch's size; other sizes run as they are.

    The first steps are ordinary ones, on a side stream as capturing asks for; none is repeated or taken back, so the
    model is trained by exactly the batches it is given.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, precision: str
    ) -> None:
        super().__init__(model, optimizer, device, precision)
        self._eager_left = _EAGER_STEPS
        self._graph: torch.cuda.CUDAGraph | None = None
        self._images = self._labels = torch.empty(0)
        self._result = (self._images, self._images)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self._eager_left > 0:
            self._eager_left -= 1
            stream = torch.cuda.Stream(self.device)
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream):
                result = super().__call__(images, labels)
            torch.cuda.current_stream(self.device).wait_stream(stream)
            self._images, self._labels = torch.empty_like(images), torch.empty_like(labels)
            return result
        if images.shape != self._images.shape:
            return super().__call__(images, labels)
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            self.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(self._graph):  # records, does not run
                self._result = self._forward_backward(self._images, self._labels)
                self.optimizer.step()
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._result


def fit(
    model: nn.Module,
    loader: Loader,
    training: Training,
    *,
    seed: int,
    set_mode: Callable[[], Any],
    on_epoch: EpochCallback | None = None,
) -> list[dict[str, Any]]:
    """Trains those parameters of `model` that require gradients, in place; see `unlearn.training.train`.

    **Arguments:** `set_mode` is called before every pass and puts each module into training or evaluation mode.
    """
    device = device_of(model)
    fast = training.path == "fast"
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("model: none of its parameters can be trained")
    history: list[dict[str, Any]] = []
    # cuDNN may otherwise choose its algorithms by timing them, and two runs could then differ.
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    memory = keep_freed_memory() if fast else contextlib.nullcontext()
    # Around the whole loop: a caller's autocast would round the backward pass too, which runs outside the step's own.
    exact = autocast(device, "float32")
    with seeded(seed), exact, cudnn, memory, _channels_last(model, fast), whole_image_products(model, fast):
        optimizer = make_optimizer(parameters, training, device)
        kind = _GraphedStep if fast and device.type == "cuda" else _Step
        step = kind(model, optimizer, device, training.precision)
        for epoch in range(training.epochs):
            start = time.perf_counter()
            rate = training.rate(epoch)
            _set_rate(optimizer, rate)
            set_mode()
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(epoch)
            loss_sum = torch.zeros((), dtype=torch.float64, device=device)
            correct_sum = torch.zeros((), dtype=torch.int64, device=device)
            count = 0
            for batch in loader:
                images, labels = to_device(batch, device, channels_last=fast)
                try:
                    loss, correct = step(images, labels)
                except ValueError as error:
                    if "Expected more than 1 value per channel" not in str(error):
                        raise
                    raise ValueError(
                        f"{training.section}batch_size: a batch of {len(labels)} image cannot be trained on with batch "
                        "normalisation; choose a size that leaves more in the last batch"
                    ) from error
                loss_sum += loss * len(labels)
                correct_sum += correct
                count += len(labels)
            if count == 0:
                raise ValueError("loader: holds no images to train on")
            loss_mean = loss_sum.item() / count  # the first wait for the device in this pass
            if not math.isfinite(loss_mean):
                raise TrainingDiverged(
                    f"{training.section}lr: the loss is {loss_mean} after pass {epoch + 1}; lower it from {training.lr}"
                )
            row = {
                "epoch": epoch + 1,
                "loss": loss_mean,
                "accuracy": correct_sum.item() / count,
                "lr": rate,
                "seconds": time.perf_counter() - start,
                "images": count,
            }
            history.append(row)
            if on_epoch is not None:
                on_epoch(row)
        optimizer.zero_grad(set_to_none=True)
    return history


@contextlib.contextmanager
def _channels_last(model: nn.Module, wanted: bool) -> Any:
    """Inside, convolution weights are channels-last in memory; afterwards contiguous, as files expect."""
    if wanted:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        if wanted:
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
