"""Every registered method conforms, and the suite finds each fault that is planted in one."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from unlearn.methods import METHODS, SSD, Finetune
from unlearn.methods.base import Card, Method, Preset, Range
from unlearn.methods.kit import Task
from unlearn.testing import CHECKS, check_method, examine


@pytest.mark.medium
@pytest.mark.parametrize("name", sorted(METHODS))
def test_registered_methods_conform(name: str) -> None:
    check_method(METHODS[name])


def wrong(cls: type[Method]) -> dict[str, str]:
    return {finding.check: finding.why for finding in examine(cls) if finding.holds is False}


@dataclass(frozen=True, kw_only=True)
class Faulty(Finetune):
    """The base of the faulty methods: it conforms."""

    examples: ClassVar[Mapping[str, Any]] = {"epochs": 1}


class _ChangesTheOriginal(Faulty):
    def run(self, task: Task) -> None:
        super().run(task)
        with torch.no_grad():
            next(task.original.parameters()).add_(1e-3)


class _ReturnsTheOriginal(Faulty):
    def unlearn(self, model, **given):
        result = Finetune(epochs=1).unlearn(model, **given)
        if self.epochs == 0:
            result.model.load_state_dict(model.state_dict())
        return result


class _DrawsFromElsewhere(Faulty):
    def run(self, task: Task) -> None:
        super().run(task)
        with torch.no_grad():
            next(task.model.parameters()).mul_(1 + 1e-3 * random.SystemRandom().random())


class _IgnoresItsSeed(Faulty):
    def run(self, task: Task) -> None:
        with torch.no_grad():
            for parameter in task.model.parameters():
                parameter.mul_(0.99)


@dataclass(frozen=True, kw_only=True)
class _ReadsRetain(Faulty):
    access: ClassVar[str] = "forget"

    def unlearn(self, model, *, retain=None, **given):
        for _ in retain:
            break
        return super().unlearn(model, **given)

    def run(self, task: Task) -> None:
        self.fit(task, task.forget.batches)


class _TrainsNorms(Faulty):
    def fit(self, task, items, objective=None, **options):
        super().fit(task, items, objective, **{**options, "batch_norm": "train"})


class _BreaksNorms(Faulty):
    def run(self, task: Task) -> None:
        super().run(task)
        for name, buffer in task.model.named_buffers():
            if name.endswith("running_var"):
                buffer.neg_()


@dataclass(frozen=True)
class _SquaresBatches(SSD):
    """Squares the gradient of the mean of a batch, as much public code does."""

    examples: ClassVar[Mapping[str, Any]] = {"alpha": 1e-6}

    def run(self, task: Task) -> None:
        everything = task.fisher().mean
        model, names = task.model, list(task.named_parameters())
        sums = {name: torch.zeros_like(total) for name, total in everything.items()}
        for images, labels in task.forget.loader:
            loss = torch.nn.functional.cross_entropy(model.eval()(images), labels)
            for name, gradient in zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True):
                sums[name] += gradient.square()
        with torch.no_grad():
            for name, weight in task.named_parameters().items():
                weight.mul_(torch.where(sums[name] > everything[name], 0.5, 1.0).float())


class _LeavesGradients(Faulty):
    def run(self, task: Task) -> None:
        super().run(task)
        next(task.original.parameters()).grad = torch.ones_like(next(task.original.parameters()))


class _FreezesTheGiven(Faulty):
    def run(self, task: Task) -> None:
        super().run(task)
        task.original.train()


class _AcceptsNothing(Faulty):
    def unlearn(self, model, *, forget, retain=None, **given):
        return super().unlearn(model, forget=retain, retain=retain, **given)


class _LearnsTheForgetSet(Faulty):
    def run(self, task: Task) -> None:
        self.fit(task, task.forget.batches, phase=self.phase(epochs=20, lr=0.05))


class _LosesEverything(Faulty):
    def run(self, task: Task) -> None:
        super().run(task)
        with torch.no_grad():
            for parameter in task.model.parameters():
                parameter.normal_()


class _KeepsOutputs(Faulty):
    def unlearn(self, model, *, forget_classes=(), **given):
        return super().unlearn(model, **given)


class _HasABadCard(Faulty):
    card: ClassVar[Card] = Card("")


class _HasABadPreset(Faulty):
    presets: ClassVar[Mapping[str, Preset]] = {"x": Preset({"lr": -1}, "nowhere")}


class _HasABadRange(Faulty):
    ranges: ClassVar[Mapping[str, Any]] = {"nose": Range(0, 1)}


@dataclass(frozen=True, kw_only=True)
class _HasAFieldWithoutARange(Faulty):
    nose: float = 1.0


class _HasARangeThatCannotBe(Faulty):
    ranges: ClassVar[Mapping[str, Any]] = {"lr": Range(-1.0, 1.0)}


PLANTED = {
    _ChangesTheOriginal: "G1",
    _ReturnsTheOriginal: "G2",
    _DrawsFromElsewhere: "G3",
    _IgnoresItsSeed: "G3",
    _ReadsRetain: "G4",
    _TrainsNorms: "G5",
    _BreaksNorms: "G5",
    _SquaresBatches: "G6",
    _LeavesGradients: "G7",
    _FreezesTheGiven: "G7",
    _AcceptsNothing: "G8",
    _LearnsTheForgetSet: "G9",
    _LosesEverything: "G9",
    _KeepsOutputs: "G10",
    _HasABadCard: "G0",
    _HasABadPreset: "G0",
    _HasABadRange: "G0",
    _HasAFieldWithoutARange: "G0",
    _HasARangeThatCannotBe: "G0",
}


@pytest.mark.medium
@pytest.mark.parametrize("cls", PLANTED, ids=lambda cls: cls.__name__)
def test_a_planted_fault_is_found(cls: type[Method]) -> None:
    found = wrong(cls)
    assert PLANTED[cls] in found, found


def test_what_the_faults_are_planted_in_conforms() -> None:
    assert wrong(Faulty) == {}
    assert set(PLANTED.values()) == set(CHECKS)
