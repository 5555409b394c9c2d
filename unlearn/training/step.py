"""One optimiser step:

the ordinary one. `unlearn.training.graphs` has the one that replays a captured graph.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.logits import HALVES, classify
from .recipe import Training

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)

# Making an optimiser and each of its steps import torch's compiler, only to tell it not to compile
# them. That takes a process two seconds and 70 MiB, and nothing here is compiled. So methods of
# `torch.optim.Optimizer` are told, for the whole process, which of their versions is not compiled.
for _method in vars(torch.optim.Optimizer).values():
    _plain = getattr(_method, "__wrapped__", None)
    if _plain is not None:
        vars(_plain).setdefault("__dynamo_disable", _plain)


def _without_compiler(kind: type[Kind]) -> type[Kind]:
    """Returns an optimiser of torch's with its innermost `step` under `no_grad`.

    What wraps `step` otherwise is left out, so `differentiable` has no effect.
    """
    step: Any = inspect.unwrap(kind.step)
    return type(kind.__name__, (kind,), {"step": torch.no_grad()(step), "__doc__": kind.__doc__})


SGD = _without_compiler(torch.optim.SGD)
Adam = _without_compiler(torch.optim.Adam)
AdamW = _without_compiler(torch.optim.AdamW)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Computation in `precision`, weights untouched, also where the caller has an autocast of its
    own.

    Weights are used once a step, so casts are not cached.
    """
    if precision == "float32":
        if torch.is_autocast_enabled(device.type):
            return torch.autocast(device.type, enabled=False)
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


def make_optimizer(parameters: list[nn.Parameter], training: Training, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser of `training`.

    On a GPU its rate is a tensor, so that a captured graph follows the schedule.
    """
    fused = training.path == "fast"
    rate: Any = torch.tensor(training.rate(0), device=device) if fused and device.type == "cuda" else training.rate(0)
    if training.optimizer in ("adam", "adamw"):
        capturable = fused and device.type == "cuda"
        kind = Adam if training.optimizer == "adam" else AdamW
        return kind(parameters, lr=rate, weight_decay=training.weight_decay, fused=fused, capturable=capturable)
    optimizer = SGD(parameters, lr=rate, momentum=training.momentum, weight_decay=training.weight_decay, fused=fused)
    if fused and training.momentum:
        # The fused kernel takes all momenta or none. So it fails at a parameter whose first
        # gradient comes after the first step, as in a block that is left out at times. From zero
        # the first momentum is the gradient, as it is without dampening where there is no momentum
        # yet.
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require gradients."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@contextlib.contextmanager
def own_generator(generator: torch.Generator | None) -> Iterator[None]:
    """Inside, what draws from a GPU's default generator draws from `generator`; None, on a CPU,
    changes nothing.

    The generators' states are exchanged, not copied, so that a graph captured inside keeps to
    `generator` for ever. Neither another model's graph on another stream nor anything else that
    draws can come between.
    """
    if generator is None:
        yield
        return
    default = torch.cuda.default_generators[generator.device.index]
    kept = default.graphsafe_get_state()
    default.graphsafe_set_state(generator)
    try:
        yield
    finally:
        default.graphsafe_set_state(kept)


def new_generator(device: torch.device) -> torch.Generator | None:
    """A generator of a GPU's, for one model; None on a CPU, where the global one is seeded for each
    training.
    """
    if device.type != "cuda":
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.Generator(torch.device("cuda", index))


def forward_backward(model: nn.Module, images: Tensor, labels: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """Adds the batch's gradient; returns its mean loss and number of correct answers, on the
    device.
    """
    with autocast(images.device, precision):
        logits = classify(model, images)
    if logits.dtype in HALVES:
        # a softmax of half-precision logits would lose the confidence tails
        logits = logits.float()
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    return loss.detach(), (logits.detach().argmax(dim=1) == labels).sum()


class Step:
    """One optimiser step on a batch; returns the batch's mean loss and number of correct answers,
    on the device.
    """

    def __init__(self, model: nn.Module, training: Training, device: torch.device, seed: int) -> None:
        self.model, self.training = model, training
        self.optimizer = make_optimizer(trained_parameters(model), training, device)
        self.generator = new_generator(device)
        if self.generator is not None:
            self.generator.manual_seed(seed)

    def begin_pass(self, rate: float) -> None:
        """Called before each pass, after every module was put into its mode."""
        set_rate(self.optimizer, rate)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        with own_generator(self.generator):
            result = forward_backward(self.model, images, labels, self.training.precision)
        self.optimizer.step()
        return result

    def end_pass(self) -> None:
        """Called after each pass: the model that was given holds the weights afterwards."""

    def close(self) -> None:
        """Called once, when training ends."""
        self.optimizer.zero_grad(set_to_none=True)
