"""The least time that projected-gradient unlearning can take with this model, this data and these threads.

Moments: the multiplications of x xᵀ, half of them by symmetry, at the measured peak of a matrix product, and one pass
over all images. Space: the decomposition of each layer's moments by LAPACK. Unlearning: the passes over the forget set,
forwards and backwards; one set of them for each γ, since after the first step no two values share a model. Passes are
timed on the plain model, weights and images channels-last, as training runs them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from unlearn import ArrayLoader
from unlearn.core.memory import keep_freed_memory
from unlearn.models.layers import projectable_layers, weight_matrix_shape

SIZE = 3072  # of the matrix product that gives the peak


def fastest(run: Callable[[], object], repeats: int = 3) -> float:
    """Returns the least wall seconds of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_flops() -> float:
    """Returns what float32 matrix products reach, in operations a second."""
    a, b = torch.rand(SIZE, SIZE), torch.rand(SIZE, SIZE)
    return 2 * SIZE**3 / fastest(lambda: a @ b, 5)


def gram_flops(model: nn.Module, image: Tensor) -> float:
    """Returns the operations of all layers' x xᵀ for one image, the lower half of each."""
    rows: dict[str, int] = {}
    layers = projectable_layers(model)
    handles = [
        layer.register_forward_hook(lambda _, __, out, name=name: rows.update({name: out[0].numel() // out.shape[1]}))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        model(image[:1])
    for handle in handles:
        handle.remove()
    shapes = {name: weight_matrix_shape(layer) for name, layer in layers.items()}
    return float(sum(rows[name] * groups * size * (size + 1) for name, (groups, _, size) in shapes.items()))


def passes(model: nn.Module, loader: ArrayLoader, backward: bool) -> float:
    """Returns the seconds of one pass over `loader`."""
    batches = [(images.to(memory_format=torch.channels_last), labels) for images, labels in loader]

    def run() -> None:
        with torch.set_grad_enabled(backward):
            for images, labels in batches:
                loss = nn.functional.cross_entropy(model(images), labels)
                if backward:
                    model.zero_grad()
                    loss.backward()

    with keep_freed_memory():
        run()
        return fastest(run)


def floor(
    model: nn.Module, everything: ArrayLoader, forget: ArrayLoader, moments: dict[str, Tensor], epochs: int
) -> dict[str, float]:
    """Returns the seconds of each stage and of the whole job with one γ and with eight."""
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    image = next(iter(everything))[0]
    count = everything.dataset_size + forget.dataset_size  # the forget set's moments are taken off
    gram = gram_flops(model, image) * count / peak_flops()
    forward = passes(model, everything, backward=False) * count / everything.dataset_size
    space = sum(fastest(partial(torch.linalg.eigh, matrix), 2) for matrix in moments.values())
    unlearning = epochs * passes(model, forget, backward=True)
    found = {"gram": gram, "pass": forward, "space": space, "unlearning": unlearning}
    prepared = gram + forward + space
    return {**found, "job": prepared + unlearning, "eight_gammas": prepared + 8 * unlearning}
