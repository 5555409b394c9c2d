"""More faults of public implementations, planted in our methods.

As in `test_public_faults`, a case names the test that must notice. These tests take fixtures, which are made first.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unlearn.methods import SCRUB, UNSIR, BadTeacher, amun, boundary_shrink, kookmin, salun
from unlearn.methods.jit import JIT
from unlearn.methods.kit import Batch, Network, Task, cross_entropy, divergence, mixed
from unlearn.methods.kit import task as kit_task
from unlearn.methods.kit.gradient import Phase
from unlearn.methods.kookmin import Kookmin
from unlearn.methods.seif import Seif

from . import test_boundary as boundary_tests
from . import test_competition_methods as other_tests
from . import test_distilled, test_finetune, test_scrub, test_ssd
from . import test_label_methods as label_tests
from . import test_statistics_methods as statistics_tests
from .test_distilled import classes, fits, teachers  # noqa: F401  (fixtures)
from .test_public_faults import Patch, replacing, setting, squares_batches
from .test_scrub import seen  # noqa: F401  (a fixture)


@dataclass(frozen=True)
class Fault:
    what: str
    plant: Callable[[Patch], None]
    test: Callable[..., None]
    arguments: tuple[tuple[str, Any], ...] = ()  # beside fixtures


def swings(self: Phase, epoch: int) -> float:
    """A cosine of one pass's length that is stepped by the batch."""
    return self.lr * 0.5 * (1 + math.cos(math.pi * 9 * epoch / self.epochs))


def one_more_ascent(patch: Patch) -> None:
    original = SCRUB.run

    def run(self: SCRUB, task: Task) -> None:
        object.__setattr__(self, "msteps", self.msteps + 1)
        original(self, task)

    patch.setattr(SCRUB, "run", run)


def whole_numbers(patch: Patch) -> None:
    original = Network.__call__

    def call(self: Network, images: Tensor) -> Tensor:
        logits = original(self, images)
        return logits.long().float() if self.frozen else logits

    patch.setattr(Network, "__call__", call)


def joint(self: SCRUB, task: Task) -> None:
    teacher = task.teacher()

    def items(epoch: int) -> Iterator[Batch]:
        return mixed(task.forget, task.retain, epoch)

    def objective(student: Network, batch: Batch) -> Tensor:
        logits, kept = student(batch.images), ~batch.forgotten
        away = divergence(teacher(batch.images[~kept]), logits[~kept], self.temperature) if bool((~kept).any()) else 0.0
        return cross_entropy(logits[kept], batch.labels[kept]) - away

    self.fit(task, items, objective)


def last_in_place_of_first(patch: Patch) -> None:
    original = SCRUB._rewind

    def rewind(self: SCRUB, task: Task, states: list[dict[str, Tensor]]) -> None:
        original(self, task, states)
        if task.stopped_at == 0:
            task.model.load_state_dict(states[-1])

    patch.setattr(SCRUB, "_rewind", rewind)


def another_network(patch: Patch) -> None:
    original = Task.teacher

    def teacher(self: Task, module: nn.Module | None = None) -> Network:
        return original(self, None if module is None else nn.Sequential(nn.Flatten(), nn.LazyLinear(10)))

    patch.setattr(Task, "teacher", teacher)


def all_noise_is_class_0(patch: Patch) -> None:
    original = UNSIR.noise
    patch.setattr(UNSIR, "noise", lambda self, task: [(x, torch.zeros_like(y)) for x, y in original(self, task)])


def noise_in_training_mode(patch: Patch) -> None:
    original = UNSIR.noise

    def noise(self: UNSIR, task: Task) -> list[tuple[Tensor, Tensor]]:
        found = original(self, task)
        task.model.train()(found[0][0])
        return found

    # The test's own copy of the model is taken before this one runs.
    patch.setattr(UNSIR, "noise", noise)


def keeps_all(self: boundary_shrink.BoundaryShrink, task: Task) -> None:
    teacher, scale = task.teacher(), boundary_shrink.Pixels.of(task.forget)
    moved = boundary_shrink.fgsm(teacher, *task.forget.kept, scale, self.epsilon)
    nearest = teacher(moved).argmax(dim=1)
    self.fit(task, lambda epoch: task.forget.batches(epoch, labels=nearest))


def attacks_mirrored(patch: Patch) -> None:
    original = amun.AMUN.nearest

    def nearest(self: amun.AMUN, task: Task) -> Any:
        images, labels = task.forget.kept
        task.forget._kept = images.flip(3), labels
        try:
            return original(self, task)
        finally:
            task.forget._kept = images, labels

    patch.setattr(amun.AMUN, "nearest", nearest)


def absolute_of_batches(gradient: Any) -> Callable[..., Any]:
    def summed(model: Any, loader: Any, loss: Any) -> Any:
        parts = [gradient(model, [batch], loss) for batch in loader]
        return {name: sum(part[name].abs() for part in parts) for name in parts[0]}

    return summed


def in_training_mode(gradient: Any) -> Callable[..., Any]:
    @contextlib.contextmanager
    def training(model: torch.nn.Module) -> Iterator[None]:
        yield model.train()  # type: ignore[misc]

    def summed(model: Any, loader: Any, loss: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("unlearn.methods.kit.mask.evaluating", training)
            return gradient(copy.deepcopy(model), loader, loss)

    return summed


class MaskedConv(torch.nn.Conv2d):
    """A layer that a method left behind."""


def keeps_masked_layers(patch: Patch) -> None:
    original = Kookmin.run

    def run(self: Kookmin, task: Task) -> None:
        original(self, task)
        for module in task.model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.__class__ = MaskedConv

    patch.setattr(Kookmin, "run", run)


def of_predictions(self: Seif, task: Task) -> torch.Tensor:
    guesses = torch.cat([task.original(images).argmax(dim=1) for images, _ in task.retain.plain()])
    counts = torch.bincount(guesses, minlength=task.num_classes).float()
    return counts.sum() / (task.num_classes * counts.clamp(min=1))


FAULTS = [
    Fault(
        "A schedule is stepped by the batch with the number of passes as its length, so that it swings",
        replacing(Phase, "rate", swings),
        test_finetune.test_schedules,
    ),
    Fault("SCRUB makes one more epoch of ascent", one_more_ascent, test_scrub.test_epochs_of_ascent_are_exactly_m),
    Fault("SCRUB's teacher answers in whole numbers", whole_numbers, test_scrub.test_the_rule),
    Fault("SCRUB minimises one joint loss", replacing(SCRUB, "run", joint), test_scrub.test_the_rule),
    Fault("SCRUB+R returns the last epoch in place of epoch 0", last_in_place_of_first, test_scrub.test_rewinding),
    Fault(
        "Bad Teacher divides by the number of classes, and does not say so",
        setting(BadTeacher, reduction="mean"),
        test_distilled.test_bad_teachers_targets,
    ),
    Fault(
        "Bad Teacher takes all of the retain set",
        setting(BadTeacher, retain_share=1.0),
        test_distilled.test_no_more_than_a_share_is_asked_for,
        (("cls", BadTeacher),),
    ),
    Fault(
        "Bad Teacher's bad teacher is of another architecture",
        another_network,
        test_distilled.test_bad_teachers_targets,
    ),
    Fault(
        "Bad Teacher's bad teacher is the good one",
        replacing(kit_task, "reset", lambda modules: None),
        test_distilled.test_bad_teachers_targets,
    ),
    Fault(
        "UNSIR labels all noise as class 0",
        all_noise_is_class_0,
        test_distilled.test_unsir_noise_is_what_the_model_finds_hardest,
    ),
    Fault(
        "UNSIR makes noise in training mode, which rewrites statistics",
        noise_in_training_mode,
        test_distilled.test_unsir_noise_is_what_the_model_finds_hardest,
    ),
    Fault(
        "UNSIR is run on samples",
        replacing(UNSIR, "scenarios", frozenset({"samples", "classes"})),
        test_distilled.test_unsir_is_for_classes,
    ),
    Fault(
        "BoundaryShrink trains to remember samples whose adversarial image keeps its class",
        replacing(boundary_shrink.BoundaryShrink, "run", keeps_all),
        boundary_tests.test_shrink_trains_to_the_class_of_the_adversarial_image,
        (("epsilon", 0.02),),
    ),
    Fault(
        "AMUN attacks augmented images",
        attacks_mirrored,
        boundary_tests.test_amun_finds_the_nearest_wrong_answer,
    ),
    Fault(
        "SalUn sums absolute gradients of batches",
        replacing(salun, "summed_gradient", absolute_of_batches(salun.summed_gradient)),
        label_tests.test_the_mask_of_salun_does_not_depend_on_batches,
    ),
    Fault(
        "JIT makes one pass whatever it is told",
        setting(JIT, epochs=1),
        statistics_tests.test_jit_makes_as_many_passes_as_it_is_told,
    ),
    Fault(
        "SFRon's mask is of squared means of batches",
        squares_batches,
        other_tests.test_the_mask_of_sfron_does_not_depend_on_batches,
    ),
    Fault(
        "Kookmin scores in training mode",
        replacing(kookmin, "summed_gradient", in_training_mode(kookmin.summed_gradient)),
        other_tests.test_kookmin_takes_the_smallest_scores_in_evaluation_mode_and_returns_an_ordinary_model,
    ),
    Fault(
        "Kookmin returns a model of masked layers",
        keeps_masked_layers,
        other_tests.test_kookmin_takes_the_smallest_scores_in_evaluation_mode_and_returns_an_ordinary_model,
    ),
    Fault(
        "Seif weighs classes by what the model predicts",
        replacing(Seif, "_weights", of_predictions),
        other_tests.test_the_weights_of_seif_are_of_the_labels_whatever_the_model_says,
    ),
    *(
        Fault(
            f"{name} squares means of batches",
            squares_batches,
            test_ssd.test_statistics_are_those_of_single_samples,
            (("statistic", statistic),),
        )
        for name, statistic in (("SSD", "fisher"), ("Fisher forgetting", "expected"))
    ),
]


@pytest.mark.medium
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_planted_public_fault_is_noticed(
    fault: Fault, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = dict(fault.arguments)
    names = [name for name in inspect.signature(fault.test).parameters if name not in given]
    given |= {name: request.getfixturevalue(name) for name in names}
    fault.plant(monkeypatch)
    with pytest.raises((AssertionError, ValueError, IndexError, pytest.fail.Exception)):
        fault.test(**given)
