"""What the training benchmark counts and holds itself against: operations, the device's peak, models in training, and
one process a core."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import unlearn.training.loop
from unlearn import ArrayLoader, Graphs, Training, build_model, predict, train
from unlearn.training.plain import plain_loader

BATCH = 256
CLASSES = {32: 10, 64: 200}
# The paper's: SGD for CIFAR-10's models, Adam for ResNet-18.
RECIPES: dict[str, dict[str, Any]] = {
    "small_vgg": {},
    "all_cnn": {},
    "resnet18": {"optimizer": "adam", "lr": 1e-3, "final_lr": 1e-4, "weight_decay": 2e-4},
}


# --- operations -------------------------------------------------------------------------------------------------------


def _pairs(size: int, outputs: int, kernel: int, stride: int, padding: int) -> int:
    """Pairs of an output position and a kernel position that lie on the image, along one side."""
    return sum(0 <= o * stride - padding + k < size for o in range(outputs) for k in range(kernel))


def operations(model: str, size: int, width: float) -> dict[str, float]:
    """Floating-point operations for one image, of convolutions and linear layers alone (a multiplication and an
    addition are two).

    **Returns:** `training` and `forward`: those that the result depends on, that is without products with padding;
    `training_with_padding`: as they are usually counted. Training is forward, gradient of the weights, and gradient
    of the inputs for all layers but the first.
    """
    net = build_model(model, num_classes=CLASSES[size], image_size=size, width=width)
    needed: list[float] = []
    usual: list[float] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            needed.append(2.0 * layer.in_features * layer.out_features)
            usual.append(needed[-1])
            return
        assert isinstance(layer, nn.Conv2d)
        assert isinstance(layer.padding, tuple)
        channels = 2.0 * layer.in_channels * layer.out_channels / layer.groups
        shape = zip(inputs[0].shape[2:], output.shape[2:], layer.kernel_size, layer.stride, layer.padding, strict=True)
        rows, columns = (_pairs(*sides) for sides in shape)
        needed.append(channels * rows * columns)
        usual.append(channels * layer.kernel_size[0] * layer.kernel_size[1] * output[0, 0].numel())

    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, size, size))
    return {
        "training": 3 * sum(needed) - needed[0],
        "training_with_padding": 3 * sum(usual) - usual[0],
        "forward": sum(needed),
    }


# --- peak -------------------------------------------------------------------------------------------------------------


def _rate(work: Callable[[], Any], flops: float, repeats: int, cuda: bool) -> float:
    """Operations a second of the fastest of `repeats` runs."""
    best = 0.0
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        best = max(best, flops / (time.perf_counter() - start))
    return best


class Peak:
    """The fastest dense arithmetic of the device, with the threads that torch has at the time: each call measures anew.

    `matmul` is the fastest square matrix product of every library at hand (on a CPU both that torch carries, since
    MKL leaves AVX-512 alone on some makes where oneDNN does not); `kernel` is the fastest of those and a convolution
    as large and as well shaped as any in the models. Float32 on a CPU, bfloat16 on a GPU.
    """

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        kind = torch.bfloat16 if self.cuda else torch.float32
        sides = (8192, 16384) if self.cuda else (1024, 2048)
        self.squares = [tuple(torch.randn(side, side, device=device, dtype=kind) for _ in "ab") for side in sides]
        self.images, self.kernel = (
            torch.randn(*shape, device=device, dtype=kind).to(memory_format=torch.channels_last)
            for shape in ((128, 256, 8, 8), (512, 256, 3, 3))
        )
        self.dense = []
        if not self.cuda and torch.backends.mkldnn.is_available():
            self.dense = [(a.to_mkldnn(), b) for a, b in self.squares]

    def __call__(self) -> dict[str, float]:
        with torch.inference_mode():
            products = [_rate(partial(torch.matmul, a, b), 2 * len(a) ** 3, 3, self.cuda) for a, b in self.squares]
            products += [
                _rate(partial(torch._C._nn.mkldnn_linear, a, b, None), 2 * len(b) ** 3, 3, False) for a, b in self.dense
            ]
            flops = 2 * 128 * 256 * 512 * _pairs(8, 8, 3, 1, 1) ** 2
            convolution = _rate(lambda: F.conv2d(self.images, self.kernel, padding=1), flops, 6, self.cuda)
        return {"matmul": max(products), "kernel": max(*products, convolution)}


# --- models in training -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def usual_switches() -> Iterator[None]:
    """Inside, `unlearn.train` leaves torch's switches as it finds them, as scripts do: on a GPU convolutions may use
    TensorFloat-32 and kernels that do not give the same bits every time. Held to the project's own rules the plain
    path would be slower than what it stands for.
    """
    kept = unlearn.training.loop.full_float32, unlearn.training.loop.deterministic_convolutions
    for name in ("full_float32", "deterministic_convolutions"):
        setattr(unlearn.training.loop, name, contextlib.nullcontext)
    try:
        yield
    finally:
        unlearn.training.loop.full_float32, unlearn.training.loop.deterministic_convolutions = kept


def usual_loader(source: ArrayLoader, workers: int) -> DataLoader[tuple[Tensor, int]]:
    """The plain path's `DataLoader` as scripts that want speed set it up: worker processes that stay from pass to pass,
    and pinned memory for a GPU."""
    return DataLoader(
        plain_loader(source).dataset,
        batch_size=source.batch_size,
        shuffle=source.shuffle,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=source.device.type == "cuda",
    )


class Trainee:
    """One model in training on random images, of the usual size, optimiser and augmentation.

    The plain path trains with `usual_switches` and reads with so many `workers`; captured steps are kept from one call
    to the next.
    """

    def __init__(
        self,
        model: str,
        size: int,
        width: float,
        path: str,
        count: int,
        device: str,
        precision: str,
        workers: int = 0,
    ) -> None:
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        labels = random.integers(0, CLASSES[size], count)
        self.net = build_model(model, num_classes=CLASSES[size], image_size=size, width=width).to(device)
        normal = {"mean": (0.49, 0.48, 0.45), "std": (0.25, 0.24, 0.26)}
        self.loader = ArrayLoader(
            images, labels, **normal, batch_size=BATCH, shuffle=True, augment="crop_flip", device=device
        )
        self.settings = {**RECIPES[model], "path": path, "precision": precision}
        self.batches = usual_loader(self.loader, workers) if path == "plain" else self.loader
        self.graphs = Graphs()

    def train(self, ready: Callable[[], Any] | None = None) -> tuple[int, float]:
        """Images and seconds of the second of two passes: the first takes the page faults, starts the workers, and
        captures the graph where no earlier call did.

        **Arguments:** `ready` is called between the two.
        """

        def after_pass(row: dict[str, Any]) -> None:
            if row["epoch"] == 1 and ready is not None:
                ready()

        recipe = Training(epochs=2, **self.settings)
        with usual_switches() if recipe.path == "plain" else contextlib.nullcontext():
            history = train(self.net, self.batches, recipe, seed=0, on_epoch=after_pass, graphs=self.graphs)
        return history[1]["images"], history[1]["seconds"]

    def predict(self) -> float:
        """Images a second of inference, as over the forget set."""
        loader = self.loader.replace(augment=None, shuffle=False, batch_size=512)
        start = time.perf_counter()
        predict(self.net, loader, precision=self.settings["precision"])
        return loader.dataset_size / (time.perf_counter() - start)


# --- one process a core -----------------------------------------------------------------------------------------------


def rate_of_all(parts: Sequence[tuple[int, float]]) -> float:
    """Images a second of (images, seconds) that began together: all images over the time of the slowest.

    A sum of rates would overstate: who is left alone at the end has the memory bus to itself.
    """
    return sum(images for images, _ in parts) / max(seconds for _, seconds in parts)


def _serve(case: tuple[Any, ...], barrier: Any, orders: Any, answers: Any) -> None:
    torch.set_num_threads(1)
    trainee, peak = Trainee(*case), Peak("cpu")
    while (order := _next(orders)) is not None:
        barrier.wait()
        # The passes that count begin together too, however long each took over the pass ahead of them.
        answers.put(trainee.train(ready=barrier.wait) if order == "train" else peak())


def _next(orders: Any) -> str | None:
    """The next order; None where there is none and nobody left to give one."""
    parent = multiprocessing.parent_process()
    while True:
        try:
            return orders.get(timeout=2)
        except queue.Empty:
            if parent is None or not parent.is_alive():
                return None


class Processes:
    """As many processes as there are cores, all at work at once.

    **Arguments:** `serve`: what each does with `given`, a barrier, its orders until None, and the answers of all.
    """

    def __init__(self, serve: Callable[..., None], given: Any, cores: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.barrier = context.Barrier(cores)  # kept: it goes with its last reference, also under processes that start
        self.answers = context.Queue()
        self.orders = [context.Queue() for _ in range(cores)]
        self.processes = [
            context.Process(target=serve, args=(given, self.barrier, orders, self.answers), daemon=True)
            for orders in self.orders
        ]
        for process in self.processes:
            process.start()

    def ask(self, wanted: Sequence[Any]) -> list[Any]:
        """The answers to one order for each process, in the order in which they come."""
        for orders, order in zip(self.orders, wanted, strict=True):
            orders.put(order)
        return [self.answers.get(timeout=900) for _ in self.processes]

    def close(self) -> None:
        """Ends the processes."""
        for orders in self.orders:
            orders.put(None)
        for process in self.processes:
            process.join()


class ProcessPerCore(Processes):
    """Processes of one thread, each training its own model."""

    def __init__(self, case: tuple[Any, ...], cores: int) -> None:
        super().__init__(_serve, case, cores)

    def train(self) -> float:
        """Images a second of all together, in a pass that all begin at once."""
        return rate_of_all(self.ask(["train"] * len(self.orders)))

    def peak(self) -> dict[str, float]:
        """Sum over the processes of what each reaches while the others do the same."""
        found = self.ask(["peak"] * len(self.orders))
        return {name: sum(each[name] for each in found) for name in found[0]}


# --- neighbours -------------------------------------------------------------------------------------------------------


class Neighbours:
    """How much of the machine's processor time went to others than this process and its children, by Linux's own
    accounts."""

    def __init__(self) -> None:
        self.cores = os.cpu_count() or 1  # the accounts are of all of them, whatever this process may use
        self.supported = Path("/proc/stat").exists()
        self.begin()

    def _all(self) -> float:
        user, nice, system, _, _, irq, soft, steal, *_ = map(
            int, Path("/proc/stat").read_text().split("\n")[0].split()[1:]
        )
        return user + nice + system + irq + soft + steal

    def _own(self) -> float:
        pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]  # loaders' workers too
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
        return sum(int(field[11]) + int(field[12]) for field in fields)

    def begin(self) -> None:
        """The next share is counted from now on."""
        if self.supported:
            self._start = time.perf_counter(), self._all(), self._own()

    def share(self) -> float | None:
        """Share of all cores' time, since `begin`, that others took (a hypervisor's other guests included); None where
        the system does not tell."""
        if not self.supported:
            return None
        elapsed = (time.perf_counter() - self._start[0]) * os.sysconf("SC_CLK_TCK") * self.cores
        return max(0.0, (self._all() - self._start[1]) - (self._own() - self._start[2])) / elapsed
