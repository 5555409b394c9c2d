"""A tiny problem to try a method on: a model that remembers its data, and what may not be
touched."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch import nn

from ..core.seeds import seeded, stream
from ..data.loader import ArrayLoader
from ..moments.fisher import fisher_diagonal
from ..moments.moments import second_moments
from ..training.recipe import Training
from ..training.train import train
from .base import Method, UnlearnResult, share_of

CLASSES, SAMPLES, FORGET = 4, 160, 24


class Fault(Exception):
    """A check does not hold."""


class Skip(Exception):
    """A check does not apply."""


class Untouchable:
    """Data that may not be touched: whatever is done with it raises."""

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "_name", name)

    def __getattr__(self, attribute: str) -> Any:
        raise Fault(f"it touched {object.__getattribute__(self, '_name')}, which it has not declared")

    def __iter__(self) -> Iterator[Any]:
        raise Fault(f"it read {object.__getattribute__(self, '_name')}, which it has not declared")


@dataclass(frozen=True)
class Problem:
    """A trained model, its data, and a forget set."""

    model: nn.Sequential
    images: np.ndarray
    labels: np.ndarray
    forget: np.ndarray
    retain: np.ndarray
    held_out: tuple[np.ndarray, np.ndarray]
    forget_classes: tuple[int, ...]

    def loader(self, rows: np.ndarray, batch_size: int = 32, **options: Any) -> ArrayLoader:
        # A set of its own: a loader over all images would let a method see more than it is handed.
        settings: dict[str, Any] = {"mean": (0.5,), "std": (0.25,), "batch_size": batch_size, **options}
        return ArrayLoader(self.images[rows], self.labels[rows], **settings)


def _net() -> nn.Sequential:
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(48, 24),
            nn.ReLU(),
            nn.Linear(24, CLASSES),
        )


def drawn(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    random = stream(seed)
    patterns = stream(7).normal(size=(CLASSES, 8, 8, 1))
    labels = np.arange(count) % CLASSES
    noisy = 0.5 + 0.12 * patterns[labels] + 0.15 * random.normal(size=(count, 8, 8, 1))
    return (noisy.clip(0, 1) * 255).round().astype(np.uint8), labels.astype(np.int64)


@cache
def problem_of(classes: bool) -> Problem:
    """The model remembers its data; a forget set of samples, or of one class."""
    images, labels = drawn(1, SAMPLES)
    model = _net()
    rows = np.flatnonzero(labels == 0) if classes else np.arange(FORGET)
    everything = ArrayLoader(images, labels, mean=(0.5,), std=(0.25,), batch_size=32, shuffle=True)
    recipe = Training(lr=0.05, final_lr=0.005, epochs=17, batch_size=32, augment=None, weight_decay=0.0)
    train(model, everything, recipe, seed=0)
    rest = np.setdiff1d(np.arange(SAMPLES), rows)
    return Problem(model.eval(), images, labels, rows, rest, drawn(2, 80), (0,) if classes else ())


class Trial:
    """A method with settings that suit the tiny problem."""

    def __init__(self, cls: type[Method], options: Mapping[str, Any]) -> None:
        self.cls = cls
        names = option_names(cls)
        small = {"epochs": 2, "batch_size": 16}
        self.options = {**{k: v for k, v in small.items() if k in names}, **cls.examples, **options}
        self.names = names
        self.problem = problem_of(classes=not cls.scenarios & {"samples", "incremental", "poison"})

    def method(self, **changes: Any) -> Method:
        return self.cls.of(**{**self.options, **changes})

    def given(self, method: Method, problem: Problem | None = None) -> dict[str, Any]:
        """What `method` declares, and untouchable data in every other place."""
        p, needs = problem or self.problem, method.needs()
        everything = p.loader(np.arange(SAMPLES))
        held_out = ArrayLoader(*p.held_out, mean=(0.5,), std=(0.25,), batch_size=64)
        given: dict[str, Any] = {
            "forget": p.loader(p.forget, needs.batch_size),
            "retain": Untouchable("the retain set"),
            "moments": Untouchable("second moments"),
            "fisher": Untouchable("the Fisher diagonal"),
        }
        if needs.retain:
            rows = share_of(p.retain, needs.retain, 0)
            given["retain"] = p.loader(rows, needs.batch_size, shuffle=True, augment=needs.augment)
        if needs.access == "moments":
            given["moments"] = second_moments(p.model, everything)
        if needs.access == "fisher":
            given["fisher"] = fisher_diagonal(p.model, everything, statistic=needs.statistic)
        if needs.validation:
            given["validation"] = held_out
        if needs.monitor:
            given["monitor"] = {"retain": p.loader(p.retain), "test": held_out}
        if p.forget_classes:
            given |= {"forget_classes": p.forget_classes, "num_classes": CLASSES}
        return given

    def run(
        self, model: nn.Module | None = None, given: Mapping[str, Any] | None = None, **changes: Any
    ) -> UnlearnResult:
        method = self.method(**changes)
        wanted = self.given(method) if given is None else given
        # A copy: what a faulty method does to it must not reach the next check.
        return method.unlearn(copy.deepcopy(self.problem.model) if model is None else model, **wanted)


def option_names(cls: type) -> set[str]:
    found: set[str] = set()
    for item in dataclasses.fields(cls):
        inner = item.default_factory
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            found |= option_names(inner)
        else:
            found.add(item.name)
    return found
