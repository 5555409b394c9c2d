"""LFSSD, JIT, Fisher forgetting and WoodFisher against slow statements of their formulas."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.unlearn.methods.nets import FORGET, RETAIN, data, forget, gap, retain, run, same, trained
from unlearn import UnlearnError
from unlearn.methods.fisher_forgetting import FisherForgetting
from unlearn.methods.jit import JIT
from unlearn.methods.kit.work import Network
from unlearn.methods.lfssd import LFSSD
from unlearn.methods.ssd import SSD
from unlearn.methods.wood_fisher import WoodFisher, _solve
from unlearn.moments.fisher import fisher_diagonal


def everything(statistic: str) -> object:
    return fisher_diagonal(trained(), [*forget(), *retain()], statistic=statistic)


def test_lfssd_reads_no_labels_and_dampens_as_its_formula() -> None:
    fisher = everything("sensitivity")
    method = LFSSD(alpha=1.0, lam=0.5)
    found = run(method, fisher=fisher).model
    shuffled = [(images, labels.flip(0)) for images, labels in forget()]
    assert same(found, run(method, fisher=fisher, forget=shuffled).model)

    model, sums = copy.deepcopy(trained()).eval(), []
    for count, first in ((FORGET, 0), (FORGET + RETAIN, 0)):
        total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
        for image in data()[0][first : first + count]:
            model.zero_grad()
            model(image[None]).square().sum().backward()
            for name, p in model.named_parameters():
                total[name] += p.grad.abs()
        sums.append({name: value / count for name, value in total.items()})
    theirs, rest = sums
    for name, p in trained().named_parameters():
        factor = torch.where(theirs[name] > rest[name], (0.5 * rest[name] / theirs[name]).clamp(max=1.0), 1.0)
        assert torch.allclose(dict(found.named_parameters())[name], (p * factor).float(), rtol=1e-4, atol=1e-7), name


def test_lfssd_refuses_the_statistic_of_ssd() -> None:
    with pytest.raises(UnlearnError, match="it holds fisher, but sensitivity is needed"):
        run(LFSSD(), fisher=everything("fisher"))
    with pytest.raises(UnlearnError, match="it holds sensitivity, but fisher is needed"):
        run(SSD(), fisher=everything("sensitivity"))


def test_jit_never_reads_labels_and_takes_no_gradient_of_the_moved_branch() -> None:
    method = JIT(lr=1e-3, sigma=0.1, draws=3)
    shuffled = [(images, (labels + 1) % 5) for images, labels in forget()]
    assert same(run(method).model, run(method, forget=shuffled).model)


def test_steps_of_jit_are_the_gradients_of_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    eta, sigma = 1e-3, 0.1
    drawn: list[tuple[Tensor, Tensor]] = []
    original = torch.randn_like

    def spy(images: Tensor) -> Tensor:
        drawn.append((images.detach().clone(), original(images)))
        return drawn[-1][1]

    monkeypatch.setattr(torch, "randn_like", spy)
    found = run(JIT(lr=eta, sigma=sigma, draws=2, batch_size=FORGET // 2)).model
    assert len(drawn) == 4  # two draws for each of two batches
    slow = copy.deepcopy(trained()).eval()
    for batch in (drawn[:2], drawn[2:]):
        slow.zero_grad()
        loss = torch.zeros(())
        for images, noise in batch:
            moved = (images + sigma * noise).clamp(images.min(), images.max())
            for x, x2 in zip(images, moved, strict=True):
                loss = loss + (slow(x[None]) - slow(x2[None]).detach()).norm() / (x2 - x).norm() / 2
        loss.backward()
        with torch.no_grad():
            for p in slow.parameters():
                p -= eta * p.grad
    start = dict(trained().named_parameters())
    for name, p in found.named_parameters():
        step = dict(slow.named_parameters())[name].detach() - start[name].detach()
        assert torch.allclose(p.detach() - start[name].detach(), step, rtol=5e-3, atol=2e-6), name


def test_both_outputs_of_jit_are_of_one_network_whatever_the_dropout() -> None:
    """The loss is the ratio of the slow statement, in evaluation mode: no mask is part of it."""
    dropped = copy.deepcopy(trained())
    dropped.dropout.p = 0.5
    method = JIT(lr=1e-4, sigma=0.1, draws=25, batch_size=FORGET)
    result = method.unlearn(dropped, forget=forget(), num_classes=5)
    assert same(result.model, run(method).model)
    slow, images = copy.deepcopy(trained()).eval(), data()[0][:FORGET]
    generator, total = torch.Generator().manual_seed(1), 0.0
    for _ in range(25):
        noise = torch.randn(images.shape, generator=generator)
        moved = (images + 0.1 * noise).clamp(images.min(), images.max())
        ratios = (slow(images) - slow(moved)).norm(dim=1) / (moved - images).flatten(1).norm(dim=1)
        total += float(ratios.sum().detach()) / 25
    assert result.history[0]["loss"] == pytest.approx(total, rel=0.1)


def test_jit_without_dropout_still_trains_normalisation_where_it_is_told_to() -> None:
    frozen, learned = (run(JIT(lr=1e-4, draws=1, batch_norm=policy)).model for policy in ("frozen", "train"))
    assert torch.equal(frozen.norm1.running_mean, trained().norm1.running_mean)
    assert not torch.equal(learned.norm1.running_mean, trained().norm1.running_mean)


def test_jit_makes_as_many_passes_as_it_is_told() -> None:
    assert [row["epoch"] for row in run(JIT(lr=1e-4, epochs=3, draws=1)).history] == [1, 2, 3]


def test_half_batches_of_jit_in_one_sum_are_the_whole() -> None:
    """The loss is a sum over the batch: the gradients of two halves add up to that of the whole."""
    images = data()[0][:8]
    network = Network(trained())
    moved = images + 0.1
    with torch.no_grad():
        elsewhere = network(moved)

    def loss(rows: slice) -> Tensor:
        step = (moved - images)[rows].flatten(1).norm(dim=1)
        return ((network(images[rows]) - elsewhere[rows]).norm(dim=1) / step).sum()

    assert float(loss(slice(0, 4)) + loss(slice(4, 8))) == pytest.approx(float(loss(slice(0, 8))), rel=1e-5)


@pytest.mark.medium
def test_fisher_noise_has_the_variance_of_its_formula() -> None:
    """Over 12 seeds, (θ' − θ0)/σ has a variance of 1; σ² from sums taken sample by sample over the retain set."""
    alpha, stored = 1e-6, everything("expected")
    model = copy.deepcopy(trained()).eval()
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    for image in data()[0][FORGET : FORGET + RETAIN]:
        probabilities = model(image[None]).softmax(dim=1)[0].detach()
        for label in range(5):
            model.zero_grad()
            nn.functional.cross_entropy(model(image[None]), torch.tensor([label])).backward()
            for name, p in model.named_parameters():
                total[name] += probabilities[label] * p.grad.double().square()
    deviations = {}
    for name, p in model.named_parameters():
        last = name.startswith("linear2")
        variance = alpha * (1 / (total[name] / RETAIN + 1e-8)).clamp(max=1e2 if last else 1e3)
        if p.ndim > 1:
            variance = variance.mean(dim=1, keepdim=True).expand_as(p)
        deviations[name] = (variance * (10 if last or p.ndim == 1 else 1)).sqrt()
    squares = {name: [] for name in deviations}
    start = dict(trained().named_parameters())
    for seed in range(12):
        found = run(FisherForgetting(alpha=alpha, seed=seed), fisher=stored).model
        for name, p in found.named_parameters():
            squares[name].append(((p.detach() - start[name].detach()) / deviations[name]).square().mean())
    for name, values in squares.items():
        numbers = 12 * start[name].numel()
        assert float(torch.stack(values).mean()) == pytest.approx(1.0, abs=6 * (2 / numbers) ** 0.5 + 0.02), name


def test_four_times_alpha_doubles_the_noise_and_none_is_told() -> None:
    stored = everything("expected")
    one, four = (run(FisherForgetting(alpha=a, seed=1), fisher=stored).model for a in (1e-6, 4e-6))
    start = dict(trained().named_parameters())
    for name, p in four.named_parameters():
        single = dict(one.named_parameters())[name].detach() - start[name].detach()
        assert torch.allclose(p.detach() - start[name].detach(), 2 * single, atol=1e-6), name
    with pytest.raises(UnlearnError, match="left every weight"):
        run(FisherForgetting(alpha=0.0), fisher=stored)


def gradients(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """One row for each sample."""
    rows = []
    for image, label in zip(images, labels, strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(image[None]), label[None]).backward()
        rows.append(torch.cat([p.grad.flatten().double() for p in model.parameters()]))
    return torch.stack(rows)


@pytest.mark.parametrize("damping", [0.05, 1.0])
def test_exact_solves_the_system_that_it_names(damping: float) -> None:
    """Logistic regression with 20 inputs: the step is α·(λI + (1/N)·Σ g gᵀ)⁻¹·v by a dense solve."""
    generator = torch.Generator().manual_seed(4)
    images, labels = torch.randn(120, 20, generator=generator), torch.arange(120) % 3
    model = nn.Linear(20, 3)
    sets = {"forget": [(images[:20], labels[:20])], "retain": [(images[20:], labels[20:])]}
    found = WoodFisher(alpha=0.3, damping=damping, fisher_samples=100).unlearn(model, num_classes=3, **sets).model
    slow = copy.deepcopy(model)
    g_f, g_r = gradients(slow, images[:20], labels[:20]), gradients(slow, images[20:], labels[20:])
    v = (g_f.sum(dim=0) - g_r.sum(dim=0) * 20 / 100) / 120
    system = damping * torch.eye(63, dtype=torch.float64) + g_r.T @ g_r / 100
    step = 0.3 * torch.linalg.solve(system, v)
    moved = torch.cat([(a - b).detach().flatten().double() for a, b in zip(found.parameters(), model.parameters(), strict=True)])  # fmt: skip
    assert float((moved - step).norm() / step.norm()) < 1e-4


def test_conjugate_gradients_agree_with_a_dense_solve() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(12, 30, dtype=torch.float64, generator=generator)
    right = torch.randn(30, dtype=torch.float64, generator=generator)
    matrix = rows.T @ rows / 12
    found = _solve(lambda v: {"w": matrix @ v["w"]}, {"w": right}, 0.1)["w"]
    assert torch.allclose(
        found, torch.linalg.solve(matrix + 0.1 * torch.eye(30, dtype=torch.float64), right), rtol=1e-5
    )


def relative_residual(model: nn.Module, step: Tensor, damping: float) -> float:
    """|v − (λI + (1/N)·Σ g gᵀ)·x| / |v| from the gradients of single samples, float64."""
    images, labels = data()
    g_f = gradients(model, images[:FORGET], labels[:FORGET])
    g_r = gradients(model, images[FORGET : FORGET + RETAIN], labels[FORGET : FORGET + RETAIN])
    v = (g_f.sum(dim=0) - g_r.sum(dim=0) * FORGET / RETAIN) / (FORGET + RETAIN)
    return float((v - damping * step - g_r.T @ (g_r @ step) / RETAIN).norm() / v.norm())


def test_the_residual_that_is_told_is_that_of_the_system() -> None:
    # A step that is large beside the rounding of float32 weights.
    found = run(WoodFisher(alpha=1e3, damping=1e-3))
    step = torch.cat([(a - b).detach().flatten().double() for a, b in zip(found.model.parameters(), trained().parameters(), strict=True)])  # fmt: skip
    told = found.history[0]["residual"]
    assert 0 < told < 1e-3
    found_here = relative_residual(copy.deepcopy(trained()).eval(), step / 1e3, 1e-3)
    assert told / 10 < found_here < 10 * told, "both are near the rounding of float32"


def test_a_system_that_is_not_solved_is_refused() -> None:
    # In 200 steps of float32 products the recursion's own residual drifts away from that of the system.
    with pytest.raises(UnlearnError, match=r"^damping: 1e-09 leaves the system unsolved after 200 steps \(relative"):
        run(WoodFisher(damping=1e-9))


def test_the_released_recursion_only_moves_along_its_first_gradient() -> None:
    settings = {"alpha": 1.0, "fisher_samples": 50, "seed": 3}
    found = run(WoodFisher(recursion="released", **settings)).model
    slow = copy.deepcopy(trained()).eval()
    images, labels = data()
    g_f = gradients(slow, images[:FORGET], labels[:FORGET])
    g_r = gradients(slow, images[FORGET : FORGET + RETAIN], labels[FORGET : FORGET + RETAIN])
    v = (g_f.sum(dim=0) - g_r.sum(dim=0) * FORGET / RETAIN) / (FORGET + RETAIN)
    moved = torch.cat([(a - b).detach().flatten().double() for a, b in zip(found.parameters(), trained().parameters(), strict=True)])  # fmt: skip
    # Float32 weights carry the step to about 1e-8, beside which k − v is small: compare with a step of the exact one.
    away = moved - v
    cosines = (g_r @ away) / (g_r.norm(dim=1) * away.norm())
    exact = run(WoodFisher(recursion="exact", **settings)).model
    assert gap(found, exact) > 0
    assert float(cosines.abs().max()) > 0.9 or float(away.norm()) < 1e-3 * float(v.norm())


def test_influence_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"^recursion: .* is not allowed"):
        WoodFisher(recursion="both")
    with pytest.raises(ValueError, match=r"^damping: .* starts from 1"):
        WoodFisher(recursion="released", damping=0.1)
    with pytest.raises(UnlearnError, match="left every weight"):
        run(WoodFisher(alpha=0.0))
