"""NegMerge, SFRon, MU-Mis, OrthoGrad and three winners of the NeurIPS 2023 competition."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unlearn.methods.nets import (
    FORGET,
    RETAIN,
    array,
    data,
    forget,
    gap,
    held_out,
    loss_on,
    retain,
    run,
    same,
    trained,
)
from unlearn import UnlearnError, UnlearnResult
from unlearn.methods import negmerge
from unlearn.methods.fanchuan import Fanchuan, contrast_loss, uniform_divergence
from unlearn.methods.finetune import Finetune
from unlearn.methods.grad_ascent import GradAscent
from unlearn.methods.kit import KitMethod, Task
from unlearn.methods.kit.work import Network, ObjectiveWork
from unlearn.methods.kookmin import Kookmin
from unlearn.methods.mu_mis import MUMis, sensitivity_gap
from unlearn.methods.negmerge import NegMerge, consensus
from unlearn.methods.ortho_grad import OrthoGrad, without
from unlearn.methods.seif import Seif
from unlearn.methods.sfron import SFRon, weights_of

PLAIN = {"momentum": 0.0, "weight_decay": 0.0}


def moved(model: nn.Module) -> dict[str, Tensor]:
    start = dict(trained().named_parameters())
    return {name: (p - start[name]).detach() for name, p in model.named_parameters()}


def task_of(method: KitMethod, monkeypatch: pytest.MonkeyPatch, **given: Any) -> Task:
    """The task that a run of the method works on."""
    seen: list[Task] = []
    original = type(method).run

    def spy(self: KitMethod, task: Task) -> None:
        seen.append(task)
        original(self, task)

    with monkeypatch.context() as patch:
        patch.setattr(type(method), "run", spy)
        run(method, **given)
    return seen[0]


# NegMerge


def test_consensus_is_the_mean_where_all_signs_agree_whatever_the_order() -> None:
    vectors = [{"w": torch.tensor([1.0, -1.0, 2.0, 0.0])}, {"w": torch.tensor([3.0, 1.0, 4.0, 5.0])}]
    assert consensus(vectors)["w"].tolist() == [2.0, 0.0, 3.0, 0.0]
    assert torch.equal(consensus(vectors[::-1])["w"], consensus(vectors)["w"])


def test_one_model_of_negmerge_is_plain_negation() -> None:
    method = NegMerge(models=1, epochs=2, lr=0.01, scale=0.7)
    away = moved(run(method).model)
    epochs, decay, smoothing = method.settings()[0]
    slow = copy.deepcopy(trained())

    class Once(NegMerge):
        def run(self, task: Task) -> None:
            tuned = self._tuned(task, epochs, decay, smoothing)
            with torch.no_grad():
                for name, p in task.named_parameters().items():
                    p.copy_(tuned[name])

    tuned = run(Once(models=1, epochs=2, lr=0.01, scale=0.7)).model
    assert not same(tuned, slow)
    for name, step in moved(tuned).items():
        assert torch.allclose(away[name], -0.7 * step, atol=1e-6), name


def test_negmerge_moves_by_its_consensus_and_leaves_the_rest_and_buffers_to_the_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tuned: list[dict[str, Tensor]] = []
    original = NegMerge._tuned

    def spy(self: NegMerge, *given: Any) -> dict[str, Tensor]:
        tuned.append({name: weight.clone() for name, weight in original(self, *given).items()})
        return tuned[-1]

    monkeypatch.setattr(NegMerge, "_tuned", spy)
    result = run(NegMerge(models=3, epochs=5, lr=0.05, scale=0.3))
    assert all(torch.equal(a, b) for a, b in zip(result.model.buffers(), trained().buffers(), strict=True))
    found = dict(result.model.named_parameters())
    agreed = total = 0
    for name, start in trained().named_parameters():
        each = [model[name] - start.detach() for model in tuned]
        signs = torch.stack([vector.sign() for vector in each])
        same_sign = signs.sum(dim=0).abs() == 3
        mean = sum(each) / 3
        expected = start.detach() - 0.3 * mean * same_sign
        assert torch.allclose(found[name].detach(), expected, atol=1e-6), name
        assert torch.equal(found[name][~same_sign], start[~same_sign]), name
        agreed, total = agreed + int(same_sign.sum()), total + start.numel()
    assert 0.1 * total < agreed < 0.9 * total
    assert result.history[0]["consensus"] == pytest.approx(agreed / total, abs=1e-3)


def test_negmerge_finds_the_largest_scale_that_keeps_the_accuracy() -> None:
    method = NegMerge(models=2, epochs=5, lr=0.05, keep=0.8)
    assert method.requires() == {"validation"}
    result = run(method)
    kept = [sum(int((m(x).argmax(1) == y).sum()) for x, y in held_out()) for m in (trained(), result.model.eval())]
    assert kept[1] >= 0.8 * kept[0]
    assert result.history[0]["scale"] > 0


def test_negmerge_goes_below_its_scales_where_the_least_costs_too_much_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[float] = []

    def take(task: Task, start: object, away: object, scale: float) -> None:
        tried.append(scale)
        with torch.no_grad():
            next(task.model.parameters()).add_(1e-6)

    def keeping(most: float) -> UnlearnResult:
        def accuracy(model: nn.Module, loader: object) -> float:
            return 1.0 if model is trained() or tried[-1] <= most else 0.5

        tried.clear()
        with monkeypatch.context() as patch:
            patch.setattr(negmerge, "_take", take)
            patch.setattr(negmerge, "accuracy", accuracy)
            return run(NegMerge(models=1, epochs=1, lr=0.01))

    usual = keeping(0.31)
    assert (usual.history[0]["scale"], usual.notes) == (0.3, [])
    less = keeping(0.02)
    assert less.history[0]["scale"] == 0.0125
    assert less.notes == ["scale 0.0125: 0.05 keeps less than 0.95 of the accuracy"]
    with pytest.raises(
        UnlearnError, match=r"^keep: no scale from 0\.00078125 on keeps 0\.95 of the validation accuracy"
    ):
        keeping(0.0)


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 27),
        ({"smoothing": 0.0}, 9),
        ({"weight_decay": 0.0}, 9),
        ({"epochs": 2}, 9),
        ({"smoothing": 0.0, "weight_decay": 0.0}, 3),
    ],
    ids=str,
)
def test_no_two_models_of_negmerge_have_one_setting(changes: dict[str, Any], count: int) -> None:
    settings = NegMerge(models=count, **changes).settings()
    assert len(set(settings)) == len(settings) == count
    with pytest.raises(ValueError, match=rf"^models: {count + 1} is not allowed; give 1 to {count},"):
        NegMerge(models=count + 1, **changes)


def test_the_settings_of_negmerge_are_the_first_of_27_in_the_order_of_the_seed() -> None:
    products = [
        (epochs, decay, smoothing)
        for epochs in (50, 40, 60)
        for decay in (1e-4, 5e-5, 1e-5)
        for smoothing in (0.0, 0.05, 0.1)
    ]
    order = np.random.default_rng([4, 16]).permutation(27)[:5]
    for found, expected in zip(NegMerge(models=5, seed=4).settings(), [products[i] for i in order], strict=True):
        assert found == pytest.approx(expected)


# SFRon


def test_the_mask_of_sfron_and_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(SFRon(iterations=1, epochs=1), monkeypatch)
    assert all(bool((part == 1).all()) for part in SFRon(threshold=0.0).mask(task).values())
    none = SFRon(threshold=math.inf).mask(task)
    assert all(bool((part == 0).all()) for name, part in none.items())
    losses = torch.tensor([0.1, 1.0, 2.0])
    assert weights_of(losses, 0.5).tolist() == pytest.approx(
        [(x**-0.5) / (0.1**-0.5 + 1 + 2**-0.5) for x in (0.1, 1, 2)]
    )
    assert weights_of(losses, 0.0).tolist() == pytest.approx([1 / 3] * 3)


def test_sfron_without_ascent_is_descent_on_the_retain_set(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"lr": 0.01, "schedule": "constant", "batch_size": 40}
    found = run(SFRon(alpha=0.0, iterations=4, epochs=1, **settings), retain=retain(40)).model
    assert gap(found, run(Finetune(epochs=1, **settings), retain=retain(40)).model) < 1e-5


def test_a_closed_mask_lets_no_ascent_through(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"lr": 0.01, "iterations": 4, "epochs": 1, "every": 1, "batch_norm": "frozen", **PLAIN}
    without_ascent = run(SFRon(alpha=0.0, **settings)).model
    assert gap(run(SFRon(**settings)).model, without_ascent) > 1e-4
    closed = {name: torch.zeros_like(p) for name, p in trained().named_parameters()}
    monkeypatch.setattr(SFRon, "mask", lambda self, task: closed)
    assert gap(run(SFRon(**settings)).model, without_ascent) < 1e-7


def test_the_mask_of_sfron_does_not_depend_on_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    method = SFRon(iterations=1, epochs=1)
    first, second = (
        method.mask(task_of(method, monkeypatch, forget=forget(size), retain=retain(size))) for size in (7, 40)
    )
    differ = sum(int((part != second[name]).sum()) for name, part in first.items())
    assert differ <= 1e-3 * sum(part.numel() for part in first.values())


def test_the_average_of_sfron_stays_behind_the_model() -> None:
    settings = {"lr": 0.02, "iterations": 12, "epochs": 2}
    plain, kept = (run(SFRon(beta=beta, **settings)).model for beta in (1.0, 0.2))
    far = [sum(float(step.square().sum()) for step in moved(model).values()) for model in (plain, kept)]
    assert 0 < far[1] < far[0]


def test_sfron_takes_a_step_in_each_pass_where_it_has_as_many_iterations_as_passes() -> None:
    assert [row["images"] for row in run(SFRon(iterations=4, epochs=4, every=5)).history] == [FORGET + 32, 32, 32, 32]


def test_sfron_forgets() -> None:
    found = run(SFRon(lr=0.01, iterations=60, epochs=3, alpha=100.0)).model
    assert loss_on(found, forget()) > loss_on(trained(), forget()) + 0.3


# MU-Mis


def test_the_loss_of_mu_mis_on_a_linear_model_is_its_closed_form() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    weight = model[1].weight
    images, labels = torch.randn(3, 3, 2, 2), torch.tensor([0, 2, 3])
    others = torch.tensor([1, 0, 2])
    loss = sensitivity_gap(Network(model), images, labels, others)
    rows = weight.square().sum(dim=1)
    assert float(loss.detach()) == pytest.approx(float((rows[labels] - rows[others]).mean().detach()), rel=1e-5)
    loss.backward()
    expected = torch.zeros_like(weight)
    for y, c in zip(labels, others, strict=True):
        expected[y] += 2 * weight.detach()[y] / 3
        expected[c] -= 2 * weight.detach()[c] / 3
    assert torch.allclose(weight.grad, expected, atol=1e-6)


def test_mu_mis_draws_another_class_anew_in_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[bytes, int]] = []

    def spy(network: Network, images: Tensor, labels: Tensor, others: Tensor) -> Tensor:
        assert bool((labels != others).all())
        pairs = zip(images, others.tolist(), strict=True)
        seen.append({image.detach().numpy().tobytes(): other for image, other in pairs})
        return sensitivity_gap(network, images, labels, others)

    monkeypatch.setattr("unlearn.methods.mu_mis.sensitivity_gap", spy)
    run(MUMis(lr=1e-6, epochs=2, batch_size=FORGET))
    first, second = seen[:2]
    assert set(first) == set(second)
    assert sum(first[image] != second[image] for image in first) > 0


def test_mu_mis_stops_once_the_forget_set_is_known_no_better_than_unseen_samples() -> None:
    result = run(MUMis(lr=0.05, epochs=20))
    assert result.stopped_at == len(result.history)
    assert result.stopped_at < 20
    assert loss_on(result.model, forget()) > loss_on(trained(), forget()) + 0.3


# OrthoGrad


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_projected_out_is_gone(whole: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = {"w": (6, 4), "b": (3,)}
    gradient = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    rows = {name: torch.randn(5, part.numel(), generator=generator) for name, part in gradient.items()}
    left = without(gradient, rows, whole)
    if whole:
        flat, every = torch.cat([part.flatten() for part in left.values()]), torch.cat(list(rows.values()), dim=1)
        assert float((every @ flat).abs().max()) < 1e-5
        assert float(flat.norm()) > 0.5
        assert float(left["b"].norm()) > 0.05
    else:
        assert float((rows["w"] @ left["w"].flatten()).abs().max()) < 1e-5
        assert float(left["b"].abs().max()) < 1e-5  # three numbers, five rows: nothing is left
        assert float(left["w"].norm()) > 0.5


def test_a_small_step_changes_no_retain_sample_to_first_order() -> None:
    # One batch of 16 retain samples, whole-vector projection, pure ascent: their losses move by O(η²) only.
    retained = [(data()[0][FORGET : FORGET + 16], data()[1][FORGET : FORGET + 16])]
    settings = {"alpha": 0.0, "epochs": 1, "batch_size": FORGET, "whole": True}
    changes = {}
    for eta in (1e-2, 1e-3):
        found = run(OrthoGrad(lr=eta, retain_batch=16, **settings), retain=retained).model
        plain = run(GradAscent(lr=eta, epochs=1, batch_size=FORGET, **PLAIN)).model
        changes[eta] = (
            abs(loss_on(found, retained) - loss_on(trained(), retained)),
            abs(loss_on(plain, retained) - loss_on(trained(), retained)),
            loss_on(found, forget()) - loss_on(trained(), forget()),
        )
    assert changes[1e-3][0] < 0.03 * changes[1e-3][1] + 1e-7
    assert changes[1e-2][0] < 0.3 * changes[1e-2][1]
    assert changes[1e-2][2] > 0


def test_without_retain_samples_ortho_grad_is_ascent() -> None:
    found = run(OrthoGrad(lr=0.01, epochs=2, alpha=0.0, retain_batch=0)).model
    assert gap(found, run(GradAscent(lr=0.01, epochs=2, batch_norm="frozen", **PLAIN)).model) < 1e-6


# The winners


def test_the_contrast_of_fanchuan_is_least_at_equal_likeness_and_gives_retain_logits_no_gradient() -> None:
    kept = torch.randn(7, 5, requires_grad=True)
    at_zero = contrast_loss(torch.zeros(3, 5), kept, 1.15)
    assert float(at_zero.detach()) == pytest.approx(math.log(7), rel=1e-6)
    for _ in range(20):
        assert float(contrast_loss(torch.randn(3, 5), kept, 1.15).detach()) >= float(at_zero.detach())
    forgotten = torch.randn(3, 5, requires_grad=True)
    contrast_loss(forgotten, kept, 1.15).backward()
    assert kept.grad is None
    assert forgotten.grad is not None


def test_the_uniform_divergence_of_fanchuan() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    p = logits.softmax(dim=1)
    slow = sum(float((1 / 3) * math.log((1 / 3) / float(p[i, c]))) for i in range(2) for c in range(3)) / 2
    assert float(uniform_divergence(logits)) == pytest.approx(slow, rel=1e-5)


def test_fanchuan_forgets_and_makes_as_many_passes_as_it_says() -> None:
    method = Fanchuan(rounds=2, batch_size=32, uniform_lr=0.05, contrast_lr=0.01)
    result = run(method)
    assert len(result.history) == method.passes() == 5
    assert loss_on(result.model, forget()) > loss_on(trained(), forget()) + 0.1
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4, 5]


def test_kookmin_draws_exactly_its_share_anew_and_brakes_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    method = Kookmin(epochs=0, redrawn=0.3)
    away = moved(run(method).model)
    task = task_of(method, monkeypatch)
    chosen = method.chosen(task)
    assert set(chosen) == {"conv1.weight", "conv2.weight", "conv3.weight"}
    for name, step in away.items():
        if name not in chosen:
            assert bool((step == 0).all()), name
            continue
        assert int(chosen[name].sum()) == round(0.3 * step.numel())
        assert bool((step[~chosen[name]] == 0).all())
        assert int((step[chosen[name]] != 0).sum()) > 0.99 * int(chosen[name].sum())

    braked: list[tuple[Tensor, Tensor]] = []
    original = ObjectiveWork.__call__

    def spy(self: ObjectiveWork, item: object) -> object:
        adjust, weight = self.adjust, dict(self.network.module.named_parameters())["conv1.weight"]

        def noted(given: object) -> None:
            before = weight.grad.clone()
            adjust(given)
            braked.append((before, weight.grad.clone()))

        self.adjust = noted
        try:
            return original(self, item)
        finally:
            self.adjust = adjust

    monkeypatch.setattr(ObjectiveWork, "__call__", spy)
    run(Kookmin(epochs=1))
    before, after = braked[0]
    where = chosen["conv1.weight"]
    assert torch.allclose(after[where], before[where])
    assert torch.allclose(after[~where], 0.1 * before[~where], rtol=1e-5)


def test_kookmin_takes_the_smallest_scores_in_evaluation_mode_and_returns_an_ordinary_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = Kookmin(epochs=0, redrawn=0.3)
    chosen, task = method.chosen(task_of(method, monkeypatch)), task_of(method, monkeypatch)
    model = copy.deepcopy(trained()).eval()
    loss = nn.CrossEntropyLoss(reduction="sum")
    kept = sum(loss(model(x), y) for x, y in task.retain.first(FORGET))
    gone = sum(loss(model(x), y) for x, y in forget())
    score = torch.autograd.grad(kept - gone, model.conv2.weight)[0].abs()
    border = score.flatten().sort().values[round(0.3 * score.numel())]
    assert int((chosen["conv2.weight"] != (score < border)).sum()) <= 2
    result = run(method).model
    assert [type(module) for module in result.modules()] == [type(module) for module in trained().modules()]


@pytest.mark.parametrize("kept", [RETAIN, 10], ids=["as many retain samples", "fewer"])
def test_kookmin_scores_both_sets_without_augmentation_and_weighs_them_alike(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"forget": array(0, FORGET), "retain": array(FORGET, kept)}
    method = Kookmin(epochs=0, redrawn=0.3, augment="crop_flip")
    chosen = method.chosen(task_of(method, monkeypatch, **given))["conv2.weight"]
    model, (images, labels) = copy.deepcopy(trained()).eval(), data()
    # The retain samples are the first of pass 0 in the order that the seed draws.
    rows = FORGET + np.random.default_rng([0, 0]).permutation(kept)[:FORGET]
    loss = nn.CrossEntropyLoss()
    gap_of_means = loss(model(images[rows]), labels[rows]) - loss(model(images[:FORGET]), labels[:FORGET])
    score = torch.autograd.grad(gap_of_means, model.conv2.weight)[0].abs()
    border = score.flatten().sort().values[round(0.3 * score.numel())]
    assert int((chosen != (score < border)).sum()) <= 4


def test_the_rate_of_kookmin_rises_and_falls() -> None:
    rates = [Kookmin(lr=0.3, epochs=5).phase().rate(epoch) for epoch in range(5)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.2, 0.1])


def test_seif_puts_its_noise_where_it_says_and_weighs_samples() -> None:
    first = moved(run(Seif(epochs=0, noise=0.6)).model)
    assert {name for name, step in first.items() if bool((step != 0).any())} == {"conv1.weight"}
    assert float(first["conv1.weight"].std()) == pytest.approx(0.6, rel=0.2)
    every = moved(run(Seif(epochs=0, noise=0.6, layers="all")).model)
    assert {name for name, step in every.items() if bool((step != 0).any())} == {f"conv{i}.weight" for i in (1, 2, 3)}
    # Classes of unequal size: weights change the direction of the step, where a factor on the mean would not.
    images, labels = data()
    chosen = torch.cat([torch.nonzero(labels[40:200] == c)[: 30 if c == 0 else 5, 0] for c in range(5)]) + 40
    unequal = [(images[chosen], labels[chosen])]
    settings = {"epochs": 1, "noise": 0.0, "last_noise": 0.0, "lr": 1e-2, "batch_norm": "frozen", **PLAIN}
    steps = [
        torch.cat([s.flatten() for s in moved(run(Seif(class_weights=w, **settings), retain=unequal).model).values()])
        for w in (True, False)
    ]
    assert float(torch.nn.functional.cosine_similarity(steps[0], steps[1], dim=0)) < 0.999


def test_the_weights_of_seif_are_of_the_labels_whatever_the_model_says(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = data()
    wrong = [(images[40:140], torch.where(labels[40:140] < 3, 0, labels[40:140]))]
    task = task_of(Seif(epochs=1), monkeypatch, retain=wrong)
    counts = torch.bincount(wrong[0][1], minlength=5).float()
    assert torch.allclose(Seif()._weights(task), 100 / (5 * counts.clamp(min=1)))


def test_models_without_convolutions_are_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(300, 5))
    for method in (Kookmin(), Seif()):
        with pytest.raises(UnlearnError, match="this model has none"):
            method.unlearn(model, forget=forget(), retain=retain(), num_classes=5)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: NegMerge(models=28), "models"),
        (lambda: NegMerge(keep=0.0), "keep"),
        (lambda: SFRon(beta=0.0), "beta"),
        (lambda: SFRon(clip=0.0), "clip"),
        (lambda: SFRon(iterations=0), "iterations"),
        (lambda: SFRon(iterations=0, epochs=0), "iterations"),
        (lambda: SFRon(iterations=14, epochs=15), "iterations"),
        (lambda: OrthoGrad(alpha=2.0), "alpha"),
        (lambda: OrthoGrad(alpha=0.5, retain_batch=0), "alpha"),
        (lambda: Fanchuan(temperature=0.0), "temperature"),
        (lambda: Kookmin(redrawn=1.1), "redrawn"),
        (lambda: Seif(layers="some"), "layers"),
    ],
)
def test_settings_that_cannot_work_are_named(build: object, named: str) -> None:
    with pytest.raises(ValueError, match=rf"^{named}: .* is not allowed"):
        build()  # type: ignore[operator]
