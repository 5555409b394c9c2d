"""Training steps as captured CUDA graphs that go from model to model.

A `Slot` is a model of its own with its optimiser, a batch of fixed shape in fixed memory, and the graph of one step on
them. To train a model its weights are copied into the slot, the optimiser's state is set to zero, the random numbers
are seeded, and the graph is replayed for every full batch; after each pass the weights are copied back. A first
training and a later one in the same slot take the same steps, since every one goes this way: what warming up and
capturing did to the slot's weights is overwritten. `Graphs` keeps slots for models of the same architecture, so a
worker captures once and then trains as many models as come.

Nothing in this file has run on a GPU yet. What does not need one (which slot fits which model, what is copied and
reset, short batches) is tested with a recorder that calls the step instead of replaying it.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .steps import forward_backward, make_optimizer, new_generator, own_generator, set_rate, trained_parameters

if TYPE_CHECKING:
    from .training import Training

Work = Callable[[], tuple[Tensor, Tensor]]
Recorder = Callable[[Work, torch.device], tuple[Callable[[], None], tuple[Tensor, Tensor]]]

_WARM_UPS = 3  # ordinary steps ahead of capturing: they create optimiser state and the libraries' workspaces


def record_cuda_graph(work: Work, device: torch.device) -> tuple[Callable[[], None], tuple[Tensor, Tensor]]:
    """Captures `work`. Returns what replays it, and the tensors that hold its result after each replay.

    Warming up happens on another stream, as capturing asks for. `work` must begin by dropping gradients: those that it
    makes while it is captured are the graph's own memory.
    """
    current, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UPS):
            work()
    current.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # records, does not run
        result = work()
    return graph.replay, result


@dataclass
class Slot:
    """See the head of this file."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    images: Tensor
    labels: Tensor
    generator: torch.Generator | None
    replay: Callable[[], None]
    result: tuple[Tensor, Tensor]

    @classmethod
    def capture(cls, model: nn.Module, training: Training, images: Tensor, labels: Tensor, record: Recorder) -> Slot:
        """A slot for models like `model` and batches like this one, whose values serve for warming up."""
        device = images.device
        twin = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = make_optimizer(trained_parameters(twin), training, device)
        generator = new_generator(device)
        fixed_images, fixed_labels = images.clone(), labels.clone()  # `clone` keeps the channels-last layout

        def work() -> tuple[Tensor, Tensor]:
            optimizer.zero_grad(set_to_none=True)
            found = forward_backward(twin, fixed_images, fixed_labels, training.precision)
            optimizer.step()
            return found

        with own_generator(generator):
            replay, result = record(work, device)
        return cls(twin, optimizer, fixed_images, fixed_labels, generator, replay, result)

    @torch.no_grad()
    def start(self, model: nn.Module, seed: int) -> None:
        """Takes over the weights of `model` and begins its training: optimiser and random numbers afresh."""
        for ours, theirs in zip(_tensors(self.model), _tensors(model), strict=True):
            ours.copy_(theirs)
        # In place, since the graph knows the addresses. Zero is how SGD's and Adam's states begin.
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    value.zero_()
        if self.generator is not None:
            self.generator.manual_seed(seed)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Gives `model` the weights and buffers as they are now."""
        for ours, theirs in zip(_tensors(self.model), _tensors(model), strict=True):
            theirs.copy_(ours)

    def run(self, images: Tensor, labels: Tensor, precision: str) -> tuple[Tensor, Tensor]:
        """One step on a batch: replayed where it has the slot's shape, an ordinary step on the same weights where not."""
        if images.shape == self.images.shape:
            self.images.copy_(images)
            self.labels.copy_(labels)
            self.replay()
            return self.result
        self.optimizer.zero_grad(set_to_none=True)
        with own_generator(self.generator):
            result = forward_backward(self.model, images, labels, precision)
        self.optimizer.step()
        return result


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


class Graphs:
    """Slots that are free, by what they are good for; hand one to `train` to let later models use earlier graphs.

    **Arguments:** `keep`: slots that are kept at most; each holds a model, its optimiser's state and the memory of one
    step. `record` captures a step and `device_type` names the devices it can do so on; both are for tests.
    """

    def __init__(self, keep: int = 2, record: Recorder = record_cuda_graph, device_type: str = "cuda") -> None:
        self.keep, self.record, self.device_type = keep, record, device_type
        self.captured = 0
        self._free: list[tuple[Hashable, Slot]] = []

    def take(self, model: nn.Module, training: Training, images: Tensor, labels: Tensor) -> tuple[Hashable, Slot]:
        """A free slot for this model and batch shape, or a new one. Give it back with `give`."""
        key = signature(model, training, images, labels)
        for index, (known, _) in enumerate(self._free):
            if known == key:
                return self._free.pop(index)
        self.captured += 1
        try:
            return key, Slot.capture(model, training, images, labels, self.record)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(
                f"{training.section}path: a step of this model cannot be captured as a CUDA graph "
                f"({str(error).splitlines()[0]}); give path: plain"
            ) from error

    def give(self, key: Hashable, slot: Slot) -> None:
        """Keeps a slot for later models; the oldest goes where there are too many."""
        if slot.images.is_cuda:
            torch.cuda.synchronize(slot.images.device)  # the next model may use another stream
        self._free.append((key, slot))
        del self._free[: -self.keep or None]


class GraphedStep:
    """A step as `steps.Step`, in a slot that is taken when the first batch shows its shape."""

    def __init__(self, model: nn.Module, training: Training, seed: int, graphs: Graphs) -> None:
        self.model, self.training, self.seed, self.graphs = model, training, seed, graphs
        self._slot: Slot | None = None
        self._key: Hashable = None
        self._rate, self._modes = 0.0, [False]

    def begin_pass(self, rate: float) -> None:
        modes = [module.training for module in self.model.modules()]
        if self._slot is not None:
            if modes != self._modes:
                raise RuntimeError("the modules' modes changed between passes, but the graph was captured with others")
            set_rate(self._slot.optimizer, rate)
        self._rate, self._modes = rate, modes

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self._slot is None:
            self._key, self._slot = self.graphs.take(self.model, self.training, images, labels)
            self._slot.start(self.model, self.seed)
            set_rate(self._slot.optimizer, self._rate)
        return self._slot.run(images, labels, self.training.precision)

    def end_pass(self) -> None:
        if self._slot is not None:
            self._slot.copy_to(self.model)

    def close(self) -> None:
        if self._slot is not None:
            self._slot.optimizer.zero_grad(set_to_none=True)
            self.graphs.give(self._key, self._slot)
            self._slot = None


# --- which slot fits --------------------------------------------------------------------------------------------------

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def has_hooks(model: nn.Module) -> bool:
    """Whether something of Python's runs in the model's step, which a replayed graph would leave out."""
    return any(getattr(module, name) for module in model.modules() for name in _HOOKS)


class _Same:
    """Equal to itself alone: what cannot be compared makes a signature that no other model has."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def _comparable(value: Any, module: nn.Module) -> Hashable:
    if isinstance(value, (list, tuple)):
        return (type(value), *(_comparable(each, module) for each in value))
    if isinstance(value, types.MethodType) and value.__self__ is module:
        return value.__func__
    if isinstance(value, (Tensor, nn.Module)):
        return _Same(value)
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return (type(value), value)


def signature(model: nn.Module, training: Training, images: Tensor, labels: Tensor) -> Hashable:
    """What must be equal for one model's graph to serve another: every module's class, settings and mode, every
    tensor's shape and whether it is trained, the optimiser's settings but for the rate, and the batch's shape."""
    modules = []
    for name, module in model.named_modules():
        settings = sorted((key, value) for key, value in vars(module).items() if key not in _OF_EVERY_MODULE)
        shown = tuple((key, _comparable(value, module)) for key, value in settings)
        modules.append((name, type(module), module.training, shown))
    tensors = [
        (name, tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    ]
    recipe = (training.optimizer, training.momentum, training.weight_decay, training.precision)
    batch = tuple((each.shape, each.dtype, each.stride(), each.device) for each in (images, labels))
    return (tuple(modules), tuple(tensors), recipe, batch)
