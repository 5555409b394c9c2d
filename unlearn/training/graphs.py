"""Training steps as captured CUDA graphs that go from model to model.

A `Slot` is a model of its own with its optimiser and a batch of fixed shape in fixed memory. It
holds the graph of one step on them. To train a model its weights are copied into the slot. The
optimiser's state is set to zero and the random numbers are seeded. The graph is replayed for every
full batch. After each pass the weights are copied back, and before the next one in again, so that
what a callback did to them holds. A first training and a later one in the same slot take the same
steps, since every one goes this way. What warming up and capturing did to the slot's weights is
overwritten. `Graphs` keeps slots for models of the same architecture, so a worker captures once and
then trains as many models as come.

Nothing in this file has run on a GPU yet. Which slot fits which model, what is copied and reset,
and short batches do not need one. They are tested with a recorder that calls the step instead of
replaying it.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.seeds import HostRandom
from .recipe import Training
from .signature import Attributes, attributes_of, changed_names, fixed_attributes, signature
from .step import Step, forward_backward, make_optimizer, new_generator, own_generator, set_rate, trained_parameters

_log = logging.getLogger(__name__)

Work = Callable[[], tuple[Tensor, Tensor]]
Recorder = Callable[[Work, torch.device, Callable[[], None]], tuple[Callable[[], None], tuple[Tensor, Tensor]]]

# ordinary steps ahead of capturing: they create optimiser state and the libraries' workspaces
_WARM_UPS = 3


class NotCapturable(RuntimeError):
    """CUDA refused to capture a step."""


class NotReplayable(Exception):
    """Something on the host changes from step to step, which a captured graph would repeat as it
    was once.
    """


def record_cuda_graph(
    work: Work, device: torch.device, warmed_up: Callable[[], None]
) -> tuple[Callable[[], None], tuple[Tensor, Tensor]]:
    """Captures `work`. Returns what replays it, and the tensors that hold its result after each
    replay.

    Warming up happens on another stream, as capturing asks for; `warmed_up` is called after it and
    may raise. `work` must begin by dropping gradients: those that it makes while it is captured are
    the graph's own memory.

    Raises `NotCapturable` where the capture itself fails; an error of `work` in warming up is left
    as it is.
    """
    # A captured graph and its capturing stream belong to the current device, which need not be the
    # model's.
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        current, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                work()
        current.wait_stream(aside)
        warmed_up()
        graph = torch.cuda.CUDAGraph()
        try:
            # records, does not run
            with _own_workspaces(device), torch.cuda.graph(graph, stream=aside):
                result = work()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise NotCapturable(str(error)) from error
    return graph.replay, result


@contextlib.contextmanager
def _own_workspaces(device: torch.device) -> Iterator[None]:
    """Inside, cuBLAS begins without workspaces, so that a captured graph gets its own, in its own
    memory.

    torch keeps a workspace for each handle and stream. A graph that was captured with one of those
    would write to it together with whatever else got it, such as another graph in replay. It
    would go on doing so when torch frees it, which happens when a graph that was captured on the
    same stream is destroyed. What is made inside is left by torch and lives as long as the graph,
    since nothing else allocates from the graph's memory.
    """
    if device.type != "cuda":
        yield
        return
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


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
        """A slot for models like `model` and batches like this one, whose values serve for warming
        up.

        Raises `NotReplayable` where a step draws from a generator of the host's or changes a plain
        attribute of a module (stochastic depth, a counter). The generators are as before then.
        """
        device = images.device
        twin = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = make_optimizer(trained_parameters(twin), training, device)
        generator = new_generator(device)
        # `clone` keeps the channels-last layout
        fixed_images, fixed_labels = images.clone(), labels.clone()

        def work() -> tuple[Tensor, Tensor]:
            optimizer.zero_grad(set_to_none=True)
            found = forward_backward(twin, fixed_images, fixed_labels, training.precision)
            optimizer.step()
            return found

        random, attributes = HostRandom(), attributes_of(twin)

        def warmed_up() -> None:
            changed = [*random.moved(), *changed_names(attributes, attributes_of(twin))]
            if changed:
                random.put_back()
                raise NotReplayable(", ".join(changed))

        with own_generator(generator):
            replay, result = record(work, device, warmed_up)
        return cls(twin, optimizer, fixed_images, fixed_labels, generator, replay, result)

    @torch.no_grad()
    def start(self, model: nn.Module, seed: int) -> None:
        """Takes over the weights of `model` and begins its training:

        optimiser and random numbers afresh.
        """
        self.take_from(model)
        # In place, since the graph knows the addresses. Zero is how SGD's and Adam's states begin.
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    value.zero_()
        if self.generator is not None:
            self.generator.manual_seed(seed)

    @torch.no_grad()
    def take_from(self, model: nn.Module) -> None:
        """Takes over the weights and buffers of `model` as they are now."""
        for ours, theirs in zip(_tensors(self.model), _tensors(model), strict=True):
            ours.copy_(theirs)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Gives `model` the weights and buffers as they are now."""
        for ours, theirs in zip(_tensors(self.model), _tensors(model), strict=True):
            theirs.copy_(ours)

    def run(self, images: Tensor, labels: Tensor, precision: str) -> tuple[Tensor, Tensor]:
        """One step on a batch:

        replayed where it has the slot's shape, an ordinary step on the same weights where not.
        """
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
    """Slots that are free, by what they are good for; hand one to `train` to let later models use
    earlier graphs.

    **Arguments:** `keep`: slots that are kept at most; each holds a model, its optimiser's state
    and the memory of one step. `record` captures a step and `device_type` names the devices it can
    do so on; both are for tests.
    """

    def __init__(self, keep: int = 2, record: Recorder = record_cuda_graph, device_type: str = "cuda") -> None:
        self.keep, self.record, self.device_type = keep, record, device_type
        self.captured = 0
        self._free: list[tuple[Hashable, Slot]] = []

    def take(self, model: nn.Module, training: Training, images: Tensor, labels: Tensor) -> tuple[Hashable, Slot]:
        """A free slot for this model and batch shape, or a new one. Give it back with `give`.

        Raises `NotReplayable` where only ordinary steps are right, `ValueError` where the step
        cannot be captured.
        """
        key = signature(model, training, images, labels)
        for index, (known, _) in enumerate(self._free):
            if known == key:
                return self._free.pop(index)
        try:
            slot = Slot.capture(model, training, images, labels, self.record)
        except NotCapturable as error:
            raise ValueError(
                f"{training.section}path: a step of this model cannot be captured as a CUDA graph "
                f"({str(error).splitlines()[0]}); give path: plain"
            ) from error
        self.captured += 1
        return key, slot

    def give(self, key: Hashable, slot: Slot) -> None:
        """Keeps a slot for later models; the oldest goes where there are too many."""
        if slot.images.is_cuda:
            torch.cuda.synchronize(slot.images.device)  # the next model may use another stream
        self._free.append((key, slot))
        del self._free[: -self.keep or None]


class GraphedStep:
    """A step as `steps.Step`, in a slot that is taken when the first batch shows its shape. It is
    an ordinary one where the host takes part in the step.

    What a callback does to the weights and buffers between two passes holds in the next one, as
    with `steps.Step`. What a captured graph cannot follow (modules' modes and settings, which
    parameters are trained, hooks) is refused.
    """

    def __init__(self, model: nn.Module, training: Training, seed: int, graphs: Graphs) -> None:
        self.model, self.training, self.seed, self.graphs = model, training, seed, graphs
        self._slot: Slot | None = None
        self._ordinary: Step | None = None
        self._key: Hashable = None
        self._rate = 0.0
        self._captured: Attributes = {}

    def begin_pass(self, rate: float) -> None:
        if self._ordinary is not None:
            self._ordinary.begin_pass(rate)
        if self._slot is not None:
            changed = changed_names(self._captured, fixed_attributes(self.model))
            if changed:
                raise ValueError(
                    f"{self.training.section}path: {', '.join(changed)} changed between two passes, which a captured "
                    "CUDA graph cannot follow; leave it as it is, or give path: plain"
                )
            self._slot.take_from(self.model)
            set_rate(self._slot.optimizer, rate)
        self._rate = rate

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self._ordinary is not None:
            return self._ordinary(images, labels)
        if self._slot is None:
            try:
                self._key, self._slot = self.graphs.take(self.model, self.training, images, labels)
            except NotReplayable as reason:
                _log.warning("steps are not replayed as a CUDA graph, since each changes on the host: %s", reason)
                self._ordinary = Step(self.model, self.training, images.device, self.seed)
                self._ordinary.begin_pass(self._rate)
                return self._ordinary(images, labels)
            self._captured = fixed_attributes(self.model)
            self._slot.start(self.model, self.seed)
            set_rate(self._slot.optimizer, self._rate)
        return self._slot.run(images, labels, self.training.precision)

    def end_pass(self) -> None:
        if self._slot is not None:
            self._slot.copy_to(self.model)

    def close(self) -> None:
        if self._ordinary is not None:
            self._ordinary.close()
        if self._slot is not None:
            self._slot.optimizer.zero_grad(set_to_none=True)
            self.graphs.give(self._key, self._slot)
            self._slot = None
