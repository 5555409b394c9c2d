"""Each fault that public implementations have, planted in our method: one of its tests fails.

A case names the fault, plants it, and names the test that must notice it. The same tests pass on the method as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.unlearn.methods import test_boundary as boundary_tests
from tests.unlearn.methods import test_competition_methods as other_tests
from tests.unlearn.methods import test_label_methods as label_tests
from tests.unlearn.methods import test_statistics_methods as statistics_tests
from unlearn.methods import (
    amun,
    boundary_expand,
    boundary_shrink,
    fisher_forgetting,
    grad_ascent,
    mu_mis,
    negmerge,
    salun,
    sfron,
)
from unlearn.methods.fisher_forgetting import FisherForgetting
from unlearn.methods.grad_ascent import GradAscent
from unlearn.methods.kit import Task
from unlearn.methods.kit.work import ObjectiveWork
from unlearn.methods.kookmin import Kookmin
from unlearn.methods.l1_sparse import L1Sparse
from unlearn.methods.neggrad_plus import NegGradPlus
from unlearn.methods.ortho_grad import without as projected
from unlearn.methods.random_label import RandomLabel
from unlearn.methods.salun import SalUn
from unlearn.methods.seif import Seif
from unlearn.methods.sfron import SFRon
from unlearn.methods.wood_fisher import WoodFisher
from unlearn.moments import fisher as statistics

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Fault:
    what: str
    plant: Callable[[Patch], None]
    test: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    patches: bool = False  # whether the test takes monkeypatch


def setting(cls: type, **values: Any) -> Callable[[Patch], None]:
    """Plants fixed values for fields, whatever is asked for."""

    def plant(patch: Patch) -> None:
        original = cls.__post_init__  # type: ignore[attr-defined]

        def fixed(self: Any) -> None:
            original(self)
            for name, value in values.items():
                object.__setattr__(self, name, value)

        patch.setattr(cls, "__post_init__", fixed)

    return plant


def replacing(module: Any, name: str, value: Any) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(module, name, value)


def leaks_weight_decay(patch: Patch) -> None:
    """Only gradients are masked, as before the fix of the released code: momentum and decay move the rest."""
    original = SalUn.fit

    def fit(self: SalUn, task: Task, items: Any, objective: Any = None, *, mask: Any = None, **options: Any) -> None:
        def adjust(_: object) -> None:
            for name, weight in task.named_parameters().items():
                if weight.grad is not None:
                    weight.grad.mul_(mask[name])

        original(self, task, items, objective, adjust=adjust, **options)

    patch.setattr(SalUn, "fit", fit)


def keeps_gradients(patch: Patch) -> None:
    """Gradients are zeroed once, before the first batch, and add up from then on."""
    original = ObjectiveWork.__call__

    def call(self: ObjectiveWork, item: Any) -> Any:
        zero = self.optimizer.zero_grad
        self.optimizer.zero_grad = lambda *_, **__: None  # type: ignore[method-assign]
        try:
            return original(self, item)
        finally:
            self.optimizer.zero_grad = zero  # type: ignore[method-assign]

    patch.setattr(ObjectiveWork, "__call__", call)


def batch_means(gradient: Any) -> Callable[..., Any]:
    """Sums means of batches in place of samples."""

    def summed(model: Any, loader: Any, loss: Any) -> Any:
        return gradient(model, loader, lambda logits, labels: loss(logits, labels) / len(labels))

    return summed


def squares_batches(patch: Patch) -> None:
    """Squares the mean gradient of a batch, which is smaller by about the size of the batch."""
    original = statistics._add_squares

    def squares(sums: Any, gradients: Any) -> None:
        means = [{n: g.mean(dim=0, keepdim=True).expand_as(g) for n, g in some.items()} for some in gradients]
        original(sums, means)

    patch.setattr(statistics, "_add_squares", squares)


def scalar_weight(self: Seif, task: Task) -> torch.Tensor:
    return torch.full((task.num_classes,), 0.7)


def negates_buffers(patch: Patch) -> None:
    original = negmerge._take

    def take(task: Task, start: Any, away: Any, scale: float) -> None:
        original(task, start, away, scale)
        for name, buffer in task.model.named_buffers():
            if name.endswith("running_var"):
                buffer.neg_()

    patch.setattr(negmerge, "_take", take)


def clamped(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return -(-F.cross_entropy(logits, labels)).clamp(min=0)


def train_mode(patch: Patch) -> None:
    original = GradAscent.fit
    patch.setattr(GradAscent, "fit", lambda self, *a, **o: original(self, *a, **{**o, "batch_norm": "train"}))


def any_label(self: RandomLabel, task: Task, epoch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(epoch)
    return torch.randint(0, task.num_classes, (task.forget.size,), generator=generator)


def mean_of_vectors(vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([vector[name] for vector in vectors]).mean(dim=0) for name in vectors[0]}


def without_forget(sets: list[Any], epoch: int, size: int) -> Any:
    return amun_together([sets[0], sets[-1]], epoch, size)


amun_together = amun.together
sensitivity = mu_mis.sensitivity_gap
grown = boundary_expand._with_rows


def attached(forgotten: torch.Tensor, kept: torch.Tensor, temperature: float) -> torch.Tensor:
    return -F.log_softmax(forgotten @ kept.T / temperature, dim=1).mean()


FAULTS = [
    Fault(
        "GradAscent clamps −CE at 0, so that its gradient is 0",
        replacing(grad_ascent, "cross_entropy", clamped),
        label_tests.test_one_step_of_ascent_is_eta_times_the_gradient,
    ),
    Fault(
        "GradAscent lets the forget set rewrite batch statistics",
        train_mode,
        label_tests.test_ascent_raises_the_loss_of_the_forget_set_and_keeps_frozen_statistics,
    ),
    Fault(
        "NegGrad+ has its weights the wrong way round",
        setting(NegGradPlus, alpha=0.3),
        label_tests.test_neggrad_plus_has_the_gradient_of_its_formula,
    ),
    Fault(
        "RandomLabel draws the true class among the wrong ones",
        replacing(RandomLabel, "drawn", any_label),
        label_tests.test_wrong_labels_are_never_the_true_ones_and_even_over_the_others,
        patches=True,
    ),
    Fault(
        "RandomLabel draws anew though it says once",
        setting(RandomLabel, redraw="epoch"),
        label_tests.test_labels_drawn_once_stay_and_those_of_each_epoch_change,
        patches=True,
    ),
    Fault(
        "SalUn lets weight decay and momentum through its mask",
        leaks_weight_decay,
        label_tests.test_the_mask_of_salun_keeps_all_other_weights_to_the_bit,
    ),
    Fault(
        "SalUn sums means of batches",
        replacing(salun, "summed_gradient", batch_means(salun.summed_gradient)),
        label_tests.test_the_mask_of_salun_does_not_depend_on_batches,
    ),
    Fault(
        "L1Sparse reaches no penalty in its last epoch",
        replacing(L1Sparse, "penalty", lambda self, epoch: self.gamma * (1 - epoch / max(1, self.epochs - 1))),
        label_tests.test_the_penalty_of_l1_fades_as_released,
    ),
    Fault(
        "JIT's gradients add up over batches",
        keeps_gradients,
        statistics_tests.test_steps_of_jit_are_the_gradients_of_its_formula,
        patches=True,
    ),
    Fault(
        "BoundaryExpand keeps its added output",
        replacing(
            boundary_expand, "_with_rows", lambda linear, change: linear if change < 0 else grown(linear, change)
        ),
        boundary_tests.test_both_forget_and_keep_the_shape,
        (boundary_expand.BoundaryExpand(lr=0.01),),
    ),
    Fault(
        "BoundaryShrink trains to the answer of the image as it is",
        replacing(boundary_shrink, "fgsm", lambda network, images, labels, scale, epsilon: images),
        boundary_tests.test_shrink_trains_to_the_class_of_the_adversarial_image,
        (0.2,),
        patches=True,
    ),
    Fault(
        "Fisher forgetting squares means of batches",
        squares_batches,
        statistics_tests.test_fisher_noise_has_the_variance_of_its_formula,
    ),
    Fault(
        "Fisher forgetting takes another layer for the last one",
        replacing(fisher_forgetting, "last_linear", lambda model: ("linear1", model.linear1)),
        statistics_tests.test_fisher_noise_has_the_variance_of_its_formula,
    ),
    Fault(
        "Fisher forgetting scales its noise by α in place of √α",
        replacing(FisherForgetting, "variance", lambda self, fisher, last: self.alpha**2 / (fisher + 1e-8)),
        statistics_tests.test_four_times_alpha_doubles_the_noise_and_none_is_told,
    ),
    Fault(
        "WoodFisher only rescales its first gradient",
        setting(WoodFisher, recursion="released"),
        statistics_tests.test_exact_solves_the_system_that_it_names,
        (1.0,),
    ),
    Fault(
        "NegMerge merges buffers, so that running variances are negative",
        negates_buffers,
        other_tests.test_negmerge_moves_by_its_consensus_and_leaves_the_rest_and_buffers_to_the_bit,
        patches=True,
    ),
    Fault(
        "NegMerge takes the mean without consensus",
        replacing(negmerge, "consensus", mean_of_vectors),
        other_tests.test_negmerge_moves_by_its_consensus_and_leaves_the_rest_and_buffers_to_the_bit,
        patches=True,
    ),
    Fault(
        "AMUN drops the forget set with its true labels",
        replacing(amun, "together", without_forget),
        boundary_tests.test_amun_sees_each_sample_of_its_sets_once,
        ("amun", (40, 40, 160)),
        patches=True,
    ),
    Fault(
        "SFRon's average does nothing",
        setting(SFRon, beta=1.0),
        other_tests.test_the_average_of_sfron_stays_behind_the_model,
    ),
    Fault(
        "SFRon's weights do not sum to 1",
        replacing(other_tests, "weights_of", lambda losses, lam: sfron.weights_of(losses, lam) * len(losses)),
        other_tests.test_the_mask_of_sfron_and_its_weights,
        patches=True,
    ),
    Fault(
        "MU-Mis has its signs the wrong way round",
        replacing(other_tests, "sensitivity_gap", lambda *given: -sensitivity(*given)),
        other_tests.test_the_loss_of_mu_mis_on_a_linear_model_is_its_closed_form,
    ),
    Fault(
        "OrthoGrad projects tensor by tensor though it says the whole",
        replacing(other_tests, "without", lambda gradient, rows, whole: projected(gradient, rows, False)),
        other_tests.test_what_is_projected_out_is_gone,
        (True,),
    ),
    Fault(
        "Fanchuan's retain logits carry a gradient",
        replacing(other_tests, "contrast_loss", attached),
        other_tests.test_the_contrast_of_fanchuan_is_least_at_equal_likeness_and_gives_retain_logits_no_gradient,
    ),
    Fault(
        "Kookmin does not brake what it has not drawn anew",
        setting(Kookmin, brake=1.0),
        other_tests.test_kookmin_draws_exactly_its_share_anew_and_brakes_the_others,
        patches=True,
    ),
    Fault(
        "Seif multiplies a mean by one number in place of weighing samples",
        replacing(Seif, "_weights", scalar_weight),
        other_tests.test_seif_puts_its_noise_where_it_says_and_weighs_samples,
    ),
]


@pytest.mark.medium
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_planted_public_fault_is_noticed(fault: Fault, monkeypatch: Patch) -> None:
    fault.plant(monkeypatch)
    given = {"monkeypatch": monkeypatch} if fault.patches else {}
    with pytest.raises((AssertionError, ValueError)):
        fault.test(*fault.arguments, **given)
