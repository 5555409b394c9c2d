"""A small classifier that remembers its training data, and its forget and retain sets."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from tests.unlearn.pgu.net import Batches, Net, batches, fitted, patterned
from unlearn import ArrayLoader, Method, UnlearnResult

FORGET, RETAIN, HELD_OUT = 40, 160, 100


MEAN, STD = (0.5, 0.5, 0.5), (0.125, 0.125, 0.125)


@functools.cache
def pixels() -> tuple[Tensor, Tensor]:
    """Images uint8 `(n, height, width, channels)` and labels: those of `data` before they are normalised."""
    images, labels = patterned(FORGET + RETAIN + HELD_OUT, seed=3)
    return (128 + 32 * images).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous(), labels


@functools.cache
def data() -> tuple[Tensor, Tensor]:
    images, labels = pixels()
    return (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.125, labels


def array(first: int, count: int, size: int = 32) -> ArrayLoader:
    """Part of the data as the fast path has it."""
    images, labels = pixels()
    rows = range(first, first + count)
    return ArrayLoader(images, labels, list(rows), mean=MEAN, std=STD, batch_size=size)


def part(first: int, count: int, size: int = 32) -> Batches:
    images, labels = data()
    return batches(images[first : first + count], labels[first : first + count], size)


def forget(size: int = 32) -> Batches:
    return part(0, FORGET, size)


def retain(size: int = 32) -> Batches:
    return part(FORGET, RETAIN, size)


def held_out(size: int = 32) -> Batches:
    return part(FORGET + RETAIN, HELD_OUT, size)


@functools.cache
def trained() -> Net:
    images, labels = data()
    return fitted(images[: FORGET + RETAIN], labels[: FORGET + RETAIN], dropout=0.0)


def run(method: Method, **given: Any) -> UnlearnResult:
    """Unlearns with what the method needs, and nothing more."""
    ready: dict[str, Any] = {"retain": retain(), "validation": held_out()}
    wanted = {name: value for name, value in ready.items() if name in method.requires()}
    return method.unlearn(trained(), **{"forget": forget(), "num_classes": 5, **wanted, **given})


def loss_on(model: nn.Module, loader: Batches) -> float:
    with torch.no_grad():
        parts = [nn.functional.cross_entropy(model.eval()(x), y, reduction="sum") for x, y in loader]
    return float(sum(parts)) / sum(len(y) for _, y in loader)


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return all(torch.equal(x[name], y[name]) for name in x)


def gap(a: nn.Module, b: nn.Module) -> float:
    """The largest difference between the parameters of two models."""
    y = dict(b.named_parameters())
    return max(float((p - y[name]).abs().max()) for name, p in a.named_parameters())
